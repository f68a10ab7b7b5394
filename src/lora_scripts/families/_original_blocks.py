"""Transformers of picture models under the names of their original programs, which keep what reads the same
input as one weight: queries, keys and values.

A family states one table; it converts single files, names the layers of LoRA files and reads them back.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass(frozen=True)
class Origin:
    """Where a module's weight stands in the original: in ``name``, as the number ``part`` of ``parts`` that
    lie under one another. ``swapped``: its two halves stand in the other order."""

    name: str
    part: int = 0
    parts: int = 1
    swapped: bool = False


def split_rows(down: Tensor, up: Tensor, rows: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
    """A LoRA of a fused weight, (r, in) and (sum of ``rows``, r), as one for each of its parts: (r', in) and
    (rows, r'), with the ranks that the part makes use of."""
    found = []
    for part in up.split(list(rows)):
        used = part.any(dim=0)
        found.append((down[used], part[:, used]))
    return found


def plain_state(
    tensors: Mapping[str, Tensor],
    groups: Mapping[str, Sequence[tuple[str, str]]],
    modules: Mapping[str, Mapping[str, tuple[int, ...]]],
) -> dict[str, Tensor]:
    """A LoRA in kohya's layout under the names of Diffusers' own, one layer for each module, scale in B.

    ``groups`` and ``modules`` as in ``lora_groups``. KeyError for a layer that is in no group.
    """
    found = {}
    for key, down in tensors.items():
        layer = key.removesuffix(".lora_down.weight")
        if layer == key:
            continue
        up, rank = tensors[f"{layer}.lora_up.weight"], down.shape[0]
        scale = float(tensors.get(f"{layer}.alpha", rank)) / rank
        rows = [modules[component][module][0] for component, module in groups[layer]]
        for (component, module), (first, second) in zip(
            groups[layer], split_rows(down, up, rows), strict=True
        ):
            if not len(first):  # nothing of this part was trained
                continue
            found[f"{component}.{module}.lora_A.weight"] = first
            found[f"{component}.{module}.lora_B.weight"] = second * scale
    return found


class OriginalBlocks:
    """``table``: module in Diffusers -> module in the original, ``#`` being a block's number, ``last`` that
    of the last block; a part of a fused one has its number behind a slash, a swapped one a ``~`` in front.
    ``leaves``: what ``weight`` is called in the original where it is called otherwise. ``plain``: weights
    that belong to no module of the table, by their whole names."""

    def __init__(
        self,
        table: Mapping[str, str],
        *,
        leaves: Mapping[str, str] | None = None,
        plain: Mapping[str, str] | None = None,
    ) -> None:
        self.table = {name: self._parsed(text) for name, text in table.items()}
        self.counts: dict[str, int] = {}
        for origin in self.table.values():
            self.counts[origin.name] = max(self.counts.get(origin.name, 0), origin.part + 1)
        self.leaves = dict(leaves or {})
        self.plain = dict(plain or {})
        self.back: dict[str, list[str]] = {}
        for name, origin in self.table.items():
            self.back.setdefault(origin.name, []).append(name)

    @staticmethod
    def _parsed(text: str) -> Origin:
        name, _, part = text.removeprefix("~").partition("/")
        return Origin(name, int(part or 0), swapped=text.startswith("~"))

    def origin(self, module: str, last: int = -1) -> Origin | None:
        """A module's place in the original; ``last``: number of the last block. None for unknown modules."""
        number = NUMBER.search(module)
        pattern = NUMBER.sub("#", module, count=1) if number else module
        own = pattern.replace(".#.", ".last.", 1)
        chosen = own if number and int(number[0]) == last and own in self.table else pattern
        found = self.table.get(chosen)
        if found is None:
            return None
        name = found.name.replace("#", number[0], 1) if number else found.name
        return Origin(name, found.part, self.counts[found.name], found.swapped)

    def groups(self, modules: Iterable[str]) -> dict[str, list[str]]:
        """Module of the original -> the modules that it is made of, in the order in which they lie in it."""
        found: dict[str, list[tuple[int, str]]] = {}
        for module in modules:
            if (origin := self.origin(module)) is not None and not origin.swapped:
                found.setdefault(origin.name, []).append((origin.part, module))
        return {name: [module for _, module in sorted(parts)] for name, parts in found.items()}

    def convert(self, state: Mapping[str, Any], width: int, start: str) -> dict[str, Any]:
        """Weights under their original names -> under Diffusers' own; those that have them are left alone.

        ``width``: rows of every part of a fused weight but the last. ``start``: what an original name of a
        block starts with.
        """
        if not any(name.startswith(start) for name in state):
            return dict(state)
        numbers = [int(n.split(".")[1]) for n in state if n.startswith(start) and n.split(".")[1].isdigit()]
        last = str(max(numbers, default=-1))
        done: dict[str, Any] = {}
        for name, tensor in state.items():
            if name in self.plain:
                done[self.plain[name]] = tensor
                continue
            owner, _, leaf = name.rpartition(".")
            for target, number in self._targets(owner, last):
                origin = self.table[target]
                module = target.replace(".#.", f".{number}.").replace(".last.", f".{number}.")
                part = self._part(tensor, origin, self.counts[origin.name], width)
                done[f"{module}.{self.leaves.get(leaf, leaf)}"] = part
        return done

    def original_shapes(
        self, shapes: Mapping[str, tuple[int, ...]], start: str
    ) -> Mapping[str, tuple[int, ...]]:
        """Shapes under Diffusers' names -> under the original ones, of fused weights all parts together;
        those that have them are left alone. ``start`` as in ``convert``."""
        if any(name.startswith(start) for name in shapes):
            return shapes
        found = {theirs: shapes[ours] for theirs, ours in self.plain.items() if ours in shapes}
        for name, shape in shapes.items():
            module, _, leaf = name.rpartition(".")
            if (origin := self.origin(module)) is None:
                continue
            for own in (leaf, *(theirs for theirs, ours in self.leaves.items() if ours == leaf)):
                place = f"{origin.name}.{own}"
                rows = found[place][0] if place in found else 0
                found[place] = (rows + shape[0], *shape[1:])
        return found

    def _targets(self, owner: str, last: str) -> list[tuple[str, str]]:
        """Entries of the table that an original module is split into, with the number of its block."""
        if owner in self.back:
            return [(target, "") for target in self.back[owner]]
        number = NUMBER.search(f"{owner}.")
        if number is None:
            return []
        pattern = NUMBER.sub("#", f"{owner}.", count=1).removesuffix(".")
        found = self.back.get(pattern, [])
        special = [target for target in found if ".last." in target]
        usual = [target for target in found if ".last." not in target]
        return [(target, number[0]) for target in (special if special and number[0] == last else usual)]

    @staticmethod
    def _part(tensor: Any, origin: Origin, parts: int, width: int) -> Any:
        import torch

        if origin.swapped:
            first, second = tensor.chunk(2, dim=0)
            return torch.cat([second, first], dim=0)
        if parts == 1:
            return tensor
        stop = None if origin.part == parts - 1 else (origin.part + 1) * width
        return tensor[origin.part * width : stop]
