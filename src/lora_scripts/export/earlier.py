"""Going on from an earlier LoRA: a file in kohya's layout read back into a fresh adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_scripts.adapters.attach import Adapter
from lora_scripts.adapters.spec import AdapterSpec
from lora_scripts.core.problems import Location, Problem, ProblemsError
from lora_scripts.families._header import Header, read_header

from .kohya import companions_of

if TYPE_CHECKING:
    from torch import Tensor

    from lora_scripts.families._base import ImageModel

DOWN, UP, ALPHA, LENGTHS = ".lora_down.weight", ".lora_up.weight", ".alpha", ".dora_scale"
ENDS = (DOWN, UP, ALPHA, LENGTHS)
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Earlier:
    """``layers``: (component, module) -> the name that the file has for it. ``zeros``: names of layers that
    are not trained here and must hold nothing but zeros."""

    path: Path
    layers: Mapping[tuple[str, str], str]
    zeros: tuple[str, ...]


def _names(header: Header, path: Path) -> set[str]:
    """The file's layers. ProblemsError LS4410 where it is not in kohya's layout, or of another method."""
    owners = {name: next((end for end in ENDS if name.endswith(end)), None) for name in header.shapes}
    layers = {name.removesuffix(end) for name, end in owners.items() if end is not None}
    odd = [name for name, end in owners.items() if end is None or not name.startswith("lora_")]
    incomplete = [n for n in layers if not {n + DOWN, n + UP} <= header.shapes.keys()]
    if odd or incomplete or not layers:
        first = sorted(odd or incomplete or ["-"])[0]
        raise ProblemsError(Problem("LS4410", {"path": str(path), "name": first}, Location(str(path))))
    return layers


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
    known = family.modules_by_name(modules)
    where = Location(str(path))
    beside = {(c, m) for c, found in companions_of(family, matched).items() for m in found}
    layers: dict[tuple[str, str], str] = {}
    strange, shapes, ranks, zeros = [], [], [], []
    for name in sorted(_names(header, path)):
        place = known.get(name) or known.get(name.replace("lora_te1_", "lora_te_", 1))
        if place in beside:
            zeros.append(name)
            continue
        if place is None or place[1] not in matched.get(place[0], ()):
            strange.append(name)
            continue
        down, up, shape = header.shapes[name + DOWN], header.shapes[name + UP], modules[place[0]][place[1]]
        rank = spec.layer(place[0], place[1], shape)[0]
        if down[1:] != shape[1:] or up[0] != shape[0] or len(up) < 2 or up[1] != down[0]:
            shapes.append((name, down[1:], shape[1:]))
        elif down[0] > rank:
            ranks.append((name, down[0], rank))
        layers[place] = name
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
    return Earlier(path, layers, tuple(zeros))


def _text(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def put_into(earlier: Earlier, model: ImageModel, adapter: Adapter) -> int:
    """Gives the adapter the effect that the file has, scale and all; returns how many layers it was.

    Layers that the file lacks start without effect, as do the ranks that it lacks. ProblemsError LS4411 where
    a layer that is not trained here has an effect.
    """
    import torch
    from safetensors.torch import load_file

    from lora_scripts.adapters.start import row_lengths, weight_of

    tensors = load_file(str(earlier.path))
    if lost := [name for name in earlier.zeros if bool(tensors[name + UP].any())]:
        told = {"path": str(earlier.path), "name": lost[0], "count": len(lost)}
        raise ProblemsError(Problem("LS4411", told, Location(str(earlier.path))))
    with torch.no_grad():
        for (component, module), name in earlier.layers.items():
            own = f"{component}.{module}"
            first, second = (adapter.parameters[f"{own}.lora_{half}.weight"] for half in "AB")
            down, up = tensors[name + DOWN].float(), tensors[name + UP].float()
            rank = down.shape[0]
            alpha = float(tensors[name + ALPHA]) if name + ALPHA in tensors else float(rank)
            first[:rank] = down.view(rank, *first.shape[1:]).to(first.device)
            second.zero_()
            factor = alpha / rank / adapter.scale_of(own)
            second[:, :rank] = (up * factor).view(len(up), rank, *second.shape[2:]).to(second.device)
            if adapter.spec.dora:
                lengths = adapter.parameters[f"{own}.lora_magnitude_vector"]
                if name + LENGTHS in tensors:
                    lengths.copy_(tensors[name + LENGTHS].view(lengths.shape))
                else:
                    base = weight_of(adapter.layers[own])
                    lengths.copy_(row_lengths(base + _product(first, second, base, adapter.scale_of(own))))
    return len(earlier.layers)


def _product(first: Tensor, second: Tensor, like: Tensor, scale: float) -> Tensor:
    return scale * (second.flatten(1) @ first.flatten(1)).view(like.shape)
