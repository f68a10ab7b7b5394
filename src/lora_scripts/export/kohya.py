"""The one LoRA layout that the WebUI, Forge, ComfyUI, sd-scripts and Diffusers all load with equal effect."""

from __future__ import annotations

from collections.abc import Mapping
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


def companions(model: Model, adapter: Adapter) -> dict[str, dict[str, str]]:
    return companions_of(model.family, adapter.matched)


def lora_tensors(model: Model, adapter: Adapter, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
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
    for component, others in companions(model, adapter).items():
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
    path: Path, model: Model, adapter: Adapter, facts: ExportFacts, *, dtype: torch.dtype | None = None
) -> Exported:
    """Writes the LoRA to ``path``, atomically; equal adapters and facts give equal bytes.

    ``dtype`` defaults to float16, the field's habit: half the size, and rounding far below what is visible.
    """
    try:
        tensors = lora_tensors(model, adapter, dtype)
    except ProblemsError as error:
        raise ProblemsError(Problem(p.code, p.params, Location(str(path))) for p in error.problems) from error
    metadata = metadata_of(tensors, model, adapter, facts)
    write_safetensors(path, tensors, metadata)
    return Exported(path, sum(len(names) for names in adapter.matched.values()), tensors, metadata)
