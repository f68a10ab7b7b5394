"""Going on from an earlier LoRA: a file in a layout that we write read back into a fresh adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_scripts.adapters.attach import Adapter
from lora_scripts.adapters.spec import AdapterSpec
from lora_scripts.core.problems import Location, Problem, ProblemsError
from lora_scripts.families._header import Header, read_header
from lora_scripts.families._original_blocks import split_rows

from .kohya import companions_of, diffusers_name, parts_beside

if TYPE_CHECKING:
    from torch import Tensor

    from lora_scripts.families._base import ImageModel

DOWN, UP, ALPHA, LENGTHS = ".lora_down.weight", ".lora_up.weight", ".alpha", ".dora_scale"
ENDS = (DOWN, UP, ALPHA, LENGTHS)
PLAIN = (".lora_A.weight", ".lora_B.weight")
"""The halves in Diffusers' own layout."""
Shapes = Mapping[str, tuple[int, ...]]
Place = tuple[str, str]


@dataclass(frozen=True)
class Earlier:
    """``layers``: name in the file -> what it is for, (component, module) and its number of rows, in the
    order of the rows. ``zeros``: those that are not trained here and must hold nothing but zeros."""

    path: Path
    layers: Mapping[str, list[tuple[Place, int]]]
    zeros: frozenset[Place]

    @property
    def count(self) -> int:
        """Modules that are trained here and that the file has something for."""
        return sum(place not in self.zeros for group in self.layers.values() for place, _ in group)


def _names(header: Header, path: Path) -> set[str]:
    """The file's layers. ProblemsError LS4410 where it is in another layout, or of another method."""
    ends = PLAIN if any(name.endswith(PLAIN[0]) for name in header.shapes) else ENDS
    owners = {name: next((end for end in ends if name.endswith(end)), None) for name in header.shapes}
    layers = {name.removesuffix(end) for name, end in owners.items() if end is not None}
    odd = [n for n, end in owners.items() if end is None or (ends == ENDS and not n.startswith("lora_"))]
    incomplete = [n for n in layers if not {n + ends[0], n + ends[1]} <= header.shapes.keys()]
    if odd or incomplete or not layers:
        first = sorted(odd or incomplete or ["-"])[0]
        raise ProblemsError(Problem("LS4410", {"path": str(path), "name": first}, Location(str(path))))
    return layers


def _known(family: Any, modules: Mapping[str, Shapes]) -> dict[str, list[Place]]:
    """Every name that a file may have for a module, or for several that are one weight there."""
    found = {name: [place] for name, place in family.modules_by_name(modules).items()}
    parts = family.sheet.components.items()
    adapted = {name for name, part in parts if part.kohya}
    found |= {diffusers_name(family, c, m): [(c, m)] for c in adapted for m in modules.get(c, {})}
    groups: dict[str, list[Place]] = family.lora_groups(modules)
    return found | groups


def _halves(shapes: Mapping[str, Any], name: str) -> tuple[str, str]:
    down, up = PLAIN if name + PLAIN[0] in shapes else (DOWN, UP)
    return name + down, name + up


def fitted(
    path: Path,
    family: Any,
    modules: Mapping[str, Shapes],
    matched: Mapping[str, list[str]],
    spec: AdapterSpec,
) -> Earlier:
    """Checks an earlier LoRA against what is to be trained, from its header alone.

    ``modules`` is ``Description.modules``, ``matched`` what ``match_targets`` gives. Raises ProblemsError:
    LS4003 to LS4005 an unreadable file, LS4410 another layout, LS4411 layers that are not trained here,
    LS4412 another base's shapes, LS4413 a higher rank than this run's, LS4414 a DoRA where none is trained.
    """
    header = read_header(path)
    known = _known(family, modules)
    where = Location(str(path))
    beside = {
        (c, m)
        for found in (companions_of(family, matched), parts_beside(family, modules, matched))
        for c, others in found.items()
        for m in others
    }
    layers: dict[str, list[tuple[Place, int]]] = {}
    strange, shapes, ranks = [], [], []
    for name in sorted(_names(header, path)):
        places = known.get(name) or known.get(name.replace("lora_te1_", "lora_te_", 1)) or []
        if not places or any(m not in matched.get(c, ()) and (c, m) not in beside for c, m in places):
            strange.append(name)
            continue
        down, up = (header.shapes[half] for half in _halves(header.shapes, name))
        if not down:
            shapes.append((name, down, modules[places[0][0]][places[0][1]]))
            continue
        trained = [(c, m) for c, m in places if (c, m) not in beside]
        shape = modules[places[0][0]][places[0][1]]
        rows = [modules[c][m][0] for c, m in places]
        rank = sum(spec.layer(c, m, modules[c][m])[0] for c, m in trained) + (
            down[0] * (len(places) - len(trained)) // len(places)
        )
        if down[1:] != shape[1:] or up[:2] != (sum(rows), down[0]):
            wanted = (sum(rows), *shape[1:]) if len(rows) > 1 else shape
            shapes.append((name, down[1:], wanted[1:]))
        elif down[0] > rank and trained:
            ranks.append((name, down[0], rank))
        layers[name] = list(zip(places, rows, strict=True))
    problems = []
    told = {"path": str(path)}
    if strange:
        problems.append(Problem("LS4411", told | {"name": strange[0], "count": len(strange)}, where))
    if shapes:
        name, found, wanted = shapes[0]
        numbers = {"found": _text(found), "wanted": _text(wanted), "count": len(shapes)}
        problems.append(Problem("LS4412", told | {"name": name} | numbers, where))
    if ranks:
        name, found_rank, own = ranks[0]
        numbers = {"found": found_rank, "rank": own, "count": len(ranks)}
        problems.append(Problem("LS4413", told | {"name": name} | numbers, where))
    if not spec.dora and any(name.endswith(LENGTHS) for name in header.shapes):
        problems.append(Problem("LS4414", told, where))
    if problems:
        raise ProblemsError(problems)
    return Earlier(path, layers, frozenset(beside))


def _text(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def put_into(earlier: Earlier, model: ImageModel, adapter: Adapter) -> int:
    """Gives the adapter the effect that the file has, scale and all; returns how many layers it was.

    Layers that the file lacks start without effect, as do the ranks that it lacks. Raises ProblemsError:
    LS4411 where a layer that is not trained here has an effect, LS4413 where one of several that are one
    weight in the file has more ranks than this run's.
    """
    import torch
    from safetensors.torch import load_file

    from lora_scripts.adapters.start import row_lengths, weight_of

    tensors = load_file(str(earlier.path))
    jobs: dict[Place, tuple[Tensor, Tensor, float, str]] = {}
    lost, high = [], []
    for name, places in earlier.layers.items():
        down, up = (tensors[half] for half in _halves(tensors, name))
        alpha = float(tensors[name + ALPHA]) if name + ALPHA in tensors else float(down.shape[0])
        single = len(places) == 1
        pairs = [(down, up)] if single else split_rows(down, up, [rows for _, rows in places])
        for (place, _), (first, second) in zip(places, pairs, strict=True):
            if place in earlier.zeros:
                lost += [name] if bool(second.any()) else []
                continue
            jobs[place] = (first, second, alpha / down.shape[0], name)
            own = len(adapter.parameters[f"{place[0]}.{place[1]}.lora_A.weight"])
            high += [(name, len(first), own)] if len(first) > own else []
    told = {"path": str(earlier.path)}
    where = Location(str(earlier.path))
    if lost:
        raise ProblemsError(Problem("LS4411", told | {"name": lost[0], "count": len(lost)}, where))
    if high:
        numbers = {"name": high[0][0], "found": high[0][1], "rank": high[0][2], "count": len(high)}
        raise ProblemsError(Problem("LS4413", told | numbers, where))
    with torch.no_grad():
        for (component, module), (down, up, scale, name) in jobs.items():
            own_name = f"{component}.{module}"
            first, second = (adapter.parameters[f"{own_name}.lora_{half}.weight"] for half in "AB")
            rank = down.shape[0]
            first[:rank] = down.float().view(rank, *first.shape[1:]).to(first.device)
            second.zero_()
            factor = scale / adapter.scale_of(own_name)
            second[:, :rank] = (up.float() * factor).view(len(up), rank, *second.shape[2:]).to(second.device)
            if adapter.spec.dora:
                lengths = adapter.parameters[f"{own_name}.lora_magnitude_vector"]
                if name + LENGTHS in tensors:
                    lengths.copy_(tensors[name + LENGTHS].view(lengths.shape))
                else:
                    base = weight_of(adapter.layers[own_name])
                    change = _product(first, second, base, adapter.scale_of(own_name))
                    lengths.copy_(row_lengths(base + change))
    return len(jobs)


def _product(first: Tensor, second: Tensor, like: Tensor, scale: float) -> Tensor:
    return scale * (second.flatten(1) @ first.flatten(1)).view(like.shape)
