"""Proof of a written DoRA. Diffusers leaves its lengths out, so its formula is worked out on the base."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_scripts.adapters.attach import Adapter
from lora_scripts.adapters.inject import QUANTISED
from lora_scripts.core.problems import Location, Problem, ProblemsError
from lora_scripts.families._base import Model
from lora_scripts.families._components import shared_copy

from .readback import Readback, as_written, compared

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


def decomposed(weight: Tensor, up: Tensor, down: Tensor, scale: float, lengths: Tensor) -> Tensor:
    """``lengths x V / |V|`` with ``V = weight + scale * up @ down``, row by row (Liu et al. 2024, eq. 5);
    float32, in the weight's shape."""
    changed = weight.float() + scale * (up.float().flatten(1) @ down.float().flatten(1)).view(weight.shape)
    ones = [1] * (weight.ndim - 1)
    norms = changed.flatten(1).norm(dim=1).view(-1, *ones)
    return changed * (lengths.float().view(-1, *ones) / norms)


def read_back_dora(path: Path, model: Model, adapter: Adapter) -> Readback:
    """Reads ``path`` and puts the weights that it describes into a copy of the base, layer by layer, then
    compares them and the outputs with the trained model. Nothing about ``model`` changes.

    Raises ProblemsError: LS4031 other layers than were trained, LS4032 another effect.
    """
    import torch
    from safetensors.torch import load_file

    family = model.family
    tensors = load_file(str(path))
    names = {family.names(c, m): (c, m) for c, modules in adapter.matched.items() for m in modules}
    found = {name.removesuffix(".dora_scale") for name in tensors if name.endswith(".dora_scale")}
    if found != set(names):
        params = {"path": str(path), "found": len(found), "expected": len(names)}
        raise ProblemsError(Problem("LS4031", params, Location(str(path))))
    parts = [name for name, part in family.sheet.components.items() if part.kohya and name in model.modules]
    copies = {name: shared_copy(model.modules[name]) for name in parts}
    family.tune(copies[family.sheet.predictor], model.device, model.dtype)
    worst, written = 0.0, next(t.dtype for name, t in tensors.items() if name.endswith(".lora_up.weight"))
    for name, (component, module) in names.items():
        layer = _plain(copies[component], module, model.dtype)
        base = layer.weight.detach()
        down, up, lengths, alpha = (
            tensors[f"{name}.{end}"].to(base.device)
            for end in ("lora_down.weight", "lora_up.weight", "dora_scale", "alpha")
        )
        read = decomposed(base, up, down, float(alpha) / down.shape[0], lengths)
        own = _trained(adapter, f"{component}.{module}", base, written)
        effect = float((own - base.float()).norm()) + 1e-4 * float(base.float().norm())
        worst = max(worst, float((read - own).norm()) / effect if effect else 0.0)
        layer.weight = torch.nn.Parameter(read.to(base.dtype), requires_grad=False)
    read_model = dataclasses.replace(model, modules=copies)
    counts = {name: len(modules) for name, modules in adapter.matched.items()}
    return compared(path, model, adapter, read_model, counts, worst, written)


def _plain(copy: nn.Module, name: str, dtype: torch.dtype) -> Any:
    """The layer ``name`` of ``copy``, where it is stored in few bits as one that holds their values."""
    from peft.utils.integrations import dequantize_module_weight
    from torch import nn

    layer: Any = copy.get_submodule(name)
    if type(layer).__name__ not in QUANTISED:
        return layer
    made = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
    made.weight = nn.Parameter(dequantize_module_weight(layer).detach().to(dtype), requires_grad=False)
    made.bias = layer.bias
    copy.set_submodule(name, made)
    return made


def _trained(adapter: Adapter, name: str, base: Tensor, written: Any) -> Tensor:
    """The weight that the layer works with, its matrices rounded as the file has them."""
    down, up = as_written(adapter, name, written)
    lengths = adapter.parameters[f"{name}.lora_magnitude_vector"].detach().flatten()
    return decomposed(base, up, down, adapter.scale_of(name), lengths)
