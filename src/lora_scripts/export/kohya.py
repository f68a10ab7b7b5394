"""The LoRA layout that most programs load with equal effect: for each family kohya's or Diffusers' own."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_scripts.adapters.attach import Adapter
from lora_scripts.core.problems import Location, Problem, ProblemsError
from lora_scripts.families._base import Model

from .facts import ExportFacts
from .metadata import metadata_of
from .tensors_file import write_safetensors

if TYPE_CHECKING:
    import torch
    from torch import Tensor


Modules = Mapping[str, Mapping[str, tuple[int, ...]]]
"""Component -> module -> shape of its weight, as ``Description.modules``."""


@dataclass(frozen=True)
class Exported:
    """``layers``: adapted modules in the file. ``tensors``: what was written, on the CPU."""

    path: Path
    layers: int
    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def companions_of(family: Any, matched: Mapping[str, list[str]]) -> dict[str, dict[str, str]]:
    """Component -> module that is not adapted -> an adapted one beside it, where clients take both only
    together: they keep them as one weight. A file holds a pair of zeros for each."""
    found: dict[str, dict[str, str]] = {}
    for component, modules in matched.items():
        ends = family.sheet.components[component].fused
        for module in modules:
            end = next((end for end in ends if module.endswith(end)), None)
            for other in (module.removesuffix(end) + each for each in ends) if end else ():
                if other not in modules:
                    found.setdefault(component, {})[other] = module
    return found


def companions(model: Model, adapter: Adapter, layout: str | None = None) -> dict[str, dict[str, str]]:
    """As ``companions_of``, with the parts of weights that a file in kohya's layout holds as one."""
    found = companions_of(model.family, adapter.matched)
    if (layout or model.family.sheet.lora_layout) == "kohya":
        for component, others in parts_beside(
            model.family, model.description.modules, adapter.matched
        ).items():
            found.setdefault(component, {}).update(others)
    return found


def parts_beside(
    family: Any, modules: Modules, matched: Mapping[str, Collection[str]]
) -> dict[str, dict[str, str]]:
    """Component -> module that is not adapted -> an adapted one that the original program keeps in the same
    weight."""
    found: dict[str, dict[str, str]] = {}
    for group in family.lora_groups(modules).values():
        beside = next((module for c, module in group if module in matched.get(c, ())), None)
        for component, module in group if beside else ():
            if module not in matched[component]:
                found.setdefault(component, {})[module] = str(beside)
    return found


def diffusers_name(family: Any, component: str, module: str) -> str:
    """The name in a file of Diffusers' layout, without ``.lora_A.weight``: the path in the model, CLIP's with
    ``text_model.``, which older and newer libraries read."""
    inner = family.sheet.components[component].inner
    return f"{component}.{'' if module.startswith(inner) else inner}{module}"


def lora_tensors(
    model: Model, adapter: Adapter, dtype: torch.dtype | None = None, layout: str | None = None
) -> dict[str, Tensor]:
    """Name -> tensor in ``layout``, by default the family's: see ``kohya_tensors``; Diffusers' own has
    ``<component>.<module>.lora_A.weight`` (r, in) and ``.lora_B.weight`` (out, r), with all of the scale in
    the latter, since it has no alpha. Raises ProblemsError LS4030 where not all numbers are finite."""
    import torch

    if (layout or model.family.sheet.lora_layout) == "kohya":
        return fused(model.family, model.description.modules, kohya_tensors(model, adapter, dtype))
    kind = dtype or torch.float16
    found: dict[str, Tensor] = {}
    for component, modules in adapter.matched.items():
        for module in modules:
            own, name = f"{component}.{module}", diffusers_name(model.family, component, module)
            down, up = (
                adapter.parameters[f"{own}.lora_{half}.weight"].detach().float().cpu() for half in "AB"
            )
            found[f"{name}.lora_A.weight"] = down.to(kind).clone()
            found[f"{name}.lora_B.weight"] = (up * adapter.scale_of(own)).to(kind)
    if broken := [name for name, tensor in found.items() if not bool(torch.isfinite(tensor).all())]:
        raise ProblemsError(Problem("LS4030", {"layers": ", ".join(broken[:3])}))
    return found


def fused(family: Any, modules: Modules, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Layers under the names of the original program. Those that it keeps as one weight become one layer:
    ``down`` under one another, ``up`` in blocks along the diagonal, alpha what it is everywhere and the
    growth of the rank in ``up``. Raises ProblemsError LS4030 where that is not finite any more."""
    import torch

    broken: list[str] = []
    for name, group in family.lora_groups(modules).items():
        own = [family.names(*place) for place in group]
        if f"{own[0]}.lora_down.weight" not in tensors:
            continue
        downs, ups = ([tensors.pop(f"{n}.lora_{half}.weight") for n in own] for half in ("down", "up"))
        alpha, *_ = [tensors.pop(f"{n}.alpha") for n in own]
        rank = sum(len(down) for down in downs)
        grown = [up if len(own) == 1 else (up.float() * (rank / up.shape[1])).to(up.dtype) for up in ups]
        tensors[f"{name}.lora_down.weight"] = torch.cat(downs)
        tensors[f"{name}.lora_up.weight"] = torch.block_diag(*grown) if len(own) > 1 else grown[0]
        tensors[f"{name}.alpha"] = alpha
        broken += [] if bool(torch.isfinite(tensors[f"{name}.lora_up.weight"]).all()) else [name]
    if broken:
        raise ProblemsError(Problem("LS4030", {"layers": ", ".join(broken[:3])}))
    return tensors


def kohya_tensors(model: Model, adapter: Adapter, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Kohya name -> tensor: ``.lora_down.weight`` and ``.lora_up.weight`` in ``dtype`` (default float16) and
    a 0-d float32 ``.alpha``, the same in every layer; of a DoRA a float32 ``.dora_scale`` (out, 1), of a
    convolution (out, 1, 1, 1): the length of each output's weights, which half precision would blur.

    A client computes ``alpha / rank * up @ down``; where a layer's own scale differs from that, the rest is
    folded into ``up``. Convolutions stay four-dimensional. Raises ProblemsError LS4030 where not all numbers
    are finite in ``dtype``.
    """
    import torch

    kind = dtype or torch.float16
    found: dict[str, Tensor] = {}
    broken: list[str] = []
    for component, modules in adapter.matched.items():
        for module in modules:
            own = f"{component}.{module}"
            down = adapter.parameters[f"{own}.lora_A.weight"].detach().float().cpu()
            up = adapter.parameters[f"{own}.lora_B.weight"].detach().float().cpu()
            up = up * folded(adapter, own)
            name = model.family.names(component, module)
            halves = {f"{name}.lora_down.weight": down.to(kind), f"{name}.lora_up.weight": up.to(kind)}
            if adapter.spec.dora:
                halves[f"{name}.dora_scale"] = _lengths(adapter, own)
            if not all(bool(torch.isfinite(half).all()) for half in halves.values()):
                broken.append(own)
            found |= {key: half.clone() for key, half in halves.items()}
            found[f"{name}.alpha"] = torch.tensor(float(adapter.spec.alpha), dtype=torch.float32)
    for component, others in companions(model, adapter, "kohya").items():
        for module, beside in others.items():
            name, rank = model.family.names(component, module), _rank(adapter, f"{component}.{beside}")
            wide, tall = model.description.modules[component][module][1::-1]
            found[f"{name}.lora_down.weight"] = torch.zeros((rank, wide), dtype=kind)
            found[f"{name}.lora_up.weight"] = torch.zeros((tall, rank), dtype=kind)
            found[f"{name}.alpha"] = torch.tensor(float(adapter.spec.alpha), dtype=torch.float32)
    if broken:
        raise ProblemsError(Problem("LS4030", {"layers": ", ".join(broken[:3])}))
    return found


def folded(adapter: Adapter, name: str) -> float:
    """What of a layer's scale a client does not find in ``alpha / rank`` and so has to be in ``up``."""
    rest = adapter.scale_of(name) / (adapter.spec.alpha / _rank(adapter, name))
    return rest if abs(rest - 1.0) > 1e-9 else 1.0


def _lengths(adapter: Adapter, name: str) -> Tensor:
    ones = [1] * (adapter.parameters[f"{name}.lora_A.weight"].ndim - 1)
    return adapter.parameters[f"{name}.lora_magnitude_vector"].detach().float().cpu().reshape(-1, *ones)


def _rank(adapter: Adapter, name: str) -> int:
    return int(adapter.parameters[f"{name}.lora_A.weight"].shape[0])


def export_lora(
    path: Path,
    model: Model,
    adapter: Adapter,
    facts: ExportFacts,
    *,
    dtype: torch.dtype | None = None,
    layout: str | None = None,
) -> Exported:
    """Writes the LoRA to ``path``, atomically; equal adapters and facts give equal bytes.

    ``dtype`` defaults to float16, the field's habit: half the size, and rounding far below what is visible.
    """
    try:
        tensors = lora_tensors(model, adapter, dtype, layout)
    except ProblemsError as error:
        raise ProblemsError(Problem(p.code, p.params, Location(str(path))) for p in error.problems) from error
    metadata = metadata_of(tensors, model, adapter, facts)
    write_safetensors(path, tensors, metadata)
    return Exported(path, sum(len(names) for names in adapter.matched.values()), tensors, metadata)
