"""Proof that a written LoRA does what was trained: loaded by Diffusers onto the bare base and compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_scripts.adapters.attach import Adapter, disabled
from lora_scripts.core.problems import Location, Problem, ProblemsError
from lora_scripts.core.seeds import derive_seed
from lora_scripts.families._base import Item, Model
from lora_scripts.families._components import shared_copy

from .kohya import companions, folded

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

NAME = "readback"
ALLOWED = {"float32": 1e-2, "bfloat16": 6e-2, "float16": 6e-2}
"""By the base's dtype: the largest relative difference, of layers and of outputs. A wrong alpha, a lost layer
or swapped names make differences of the order of one; rounding to fp16 makes about 1e-3."""


@dataclass(frozen=True)
class Readback:
    """``layers``: component -> LoRA layers that the client applied. ``weights``: the largest relative
    difference of a layer's ``scale * B @ A``. ``output``: the largest absolute difference of outputs;
    ``relative``: their distance over the adapter's own effect on them (over the output in half
    precision)."""

    layers: dict[str, int]
    weights: float
    output: float
    relative: float


def _product(first: Tensor, second: Tensor, scale: float) -> Tensor:
    return scale * (second.flatten(1).double() @ first.flatten(1).double())


def lora_layers(module: nn.Module, name: str = NAME) -> dict[str, Any]:
    """Module name -> the PEFT layers on which the adapter ``name`` is active."""
    return {n: m for n, m in module.named_modules() if name in getattr(m, "lora_A", {})}


def _compare_weights(adapter: Adapter, component: str, found: dict[str, Any], written: torch.dtype) -> float:
    """The largest relative difference of a layer; a layer that is zero in both counts as equal."""
    import torch

    worst = 0.0
    with torch.no_grad():
        for name, layer in found.items():
            own = f"{component}.{name}"
            first, second = (half.cpu() for half in as_written(adapter, own, written))
            wanted = _product(first, second, adapter.scale_of(own))
            got = _product(
                layer.lora_A[NAME].weight.cpu(), layer.lora_B[NAME].weight.cpu(), layer.scaling[NAME]
            )
            distance, size = float((wanted - got).norm()), float(wanted.norm())
            worst = max(worst, distance / size if size else distance)
    return worst


def probe(model: Model) -> tuple[Item, Any]:
    """A fixed item and draw for one small forward pass: random moments and token ids, or text inputs."""
    import torch

    from lora_scripts.families._base import Draw

    generator = torch.Generator("cpu").manual_seed(derive_seed(0, NAME))
    side = max(8, model.description.size_multiple // model.family.latent_factor(model))
    channels = int(model.configs["vae"]["latent_channels"])
    moments = torch.randn((2 * channels, side, side), generator=generator)
    return {"latents": moments, **model.family.probe_text(model, generator)}, Draw(1, 500)


def read_back(path: Path, model: Model, adapter: Adapter) -> Readback:
    """Loads ``path`` through Diffusers' own loader onto a copy of the base that shares its weights, and
    compares layers and outputs with the trained model. Nothing about ``model`` changes.

    Raises ProblemsError: LS4031 other layers than were trained, LS4032 another effect.
    """
    import torch
    from safetensors import safe_open

    if adapter.spec.dora:
        from .dora_proof import read_back_dora

        return read_back_dora(path, model, adapter)
    family = model.family
    parts = [name for name, part in family.sheet.components.items() if part.kohya and name in model.modules]
    copies = {name: shared_copy(model.modules[name]) for name in parts}
    family.tune(copies[family.sheet.predictor], model.device, model.dtype)
    bare = dataclasses.replace(model, modules=copies)
    pipe = family.pipeline(bare)
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        family.load_lora(pipe, path, NAME)
    found = {name: lora_layers(copy) for name, copy in copies.items()}
    for name, beside in companions(model, adapter).items():  # pairs of zeros, there for clients alone
        found[name] = {module: layer for module, layer in found[name].items() if module not in beside}
    counts = {name: len(layers) for name, layers in found.items() if layers}
    where = Location(str(path))
    wanted = {name: len(modules) for name, modules in adapter.matched.items()}
    if counts != wanted or any(set(found[n]) != set(adapter.matched[n]) for n in wanted):
        params = {"path": str(path), "found": sum(counts.values()), "expected": sum(wanted.values())}
        raise ProblemsError(Problem("LS4031", params, where))
    with safe_open(str(path), framework="pt") as handle:
        ends = (".lora_up.weight", ".lora_B.weight")
        first = next(name for name in handle.keys() if name.endswith(ends))  # noqa: SIM118
        written = handle.get_tensor(first).dtype
    weights = max(_compare_weights(adapter, name, found[name], written) for name in wanted)

    return compared(path, model, adapter, bare, counts, weights, written)


def as_written(adapter: Adapter, name: str, written: torch.dtype) -> tuple[Tensor, Tensor]:
    """A layer's two matrices, float32, rounded as a file in ``written`` holds them."""
    first, second = (adapter.parameters[f"{name}.lora_{half}.weight"].detach() for half in "AB")
    factor = folded(adapter, name)
    return first.to(written).float(), (second * factor).to(written).float() / factor


@contextmanager
def _rounded(adapter: Adapter, written: torch.dtype) -> Iterator[None]:
    """For a while the adapter computes with its matrices as the file holds them."""
    before = {name: parameter.data for name, parameter in adapter.parameters.items()}
    try:
        for name in adapter.layers:
            for half, value in zip("AB", as_written(adapter, name, written), strict=True):
                adapter.parameters[f"{name}.lora_{half}.weight"].data = value
        yield
    finally:
        for name, value in before.items():
            adapter.parameters[name].data = value


def _evaluated(model: Model, adapter: Adapter, batch: Any) -> Tensor:
    """One forward pass, float64, without gradient and without dropout."""
    import torch

    modes = {name: model.modules[name].training for name in adapter.matched}
    try:
        for name in modes:
            model.modules[name].eval()
        with torch.no_grad(), torch.autocast(model.device.type, enabled=False):
            found: Tensor = model.family.predict(model, batch).double()
            return found
    finally:
        for name, mode in modes.items():
            model.modules[name].train(mode)


def precision(model: Model) -> torch.dtype:
    """How finely the base computes. LLM.int8 rounds what goes through it to eight bits, so that the last bit
    of an input can move an output as much as half precision does."""
    import torch

    return torch.float16 if model.quantization == "8bit" else model.dtype


def _relative(trained: Tensor, read: Tensor, base: Tensor, dtype: torch.dtype) -> float:
    import torch

    distance, effect = float((trained - read).norm()), float((trained - base).norm())
    size = float(trained.norm())
    if not size:
        return distance
    return distance / (effect + 1e-4 * size if dtype == torch.float32 else size)


def compared(
    path: Path,
    model: Model,
    adapter: Adapter,
    read_model: Model,
    counts: dict[str, int],
    weights: float,
    written: torch.dtype,
) -> Readback:
    """The last step of the proof: one forward pass of the trained model, of the base and of what was read,
    whose matrices are ``written`` in that dtype.

    Raises ProblemsError LS4032 where ``weights`` or the outputs differ by more than rounding.
    """
    item, draw = probe(model)
    batch = model.family.collate(model, [item], [draw])
    trained = _evaluated(model, adapter, batch)
    with disabled(adapter):
        base = _evaluated(model, adapter, batch)
    read = _evaluated(read_model, adapter, batch)
    kind = precision(model)
    relative = _relative(trained, read, base, kind)
    where = Location(str(path))
    allowed = ALLOWED[str(kind).removeprefix("torch.")]
    if not relative <= allowed:  # what has learnt next to nothing may lie below the rounding of a half
        with _rounded(adapter, written):
            relative = _relative(_evaluated(model, adapter, batch), read, base, kind)
    for what, value in (("weights", weights), ("output", relative)):
        if not value <= allowed:
            params = {
                "path": str(path),
                "what": what,
                "difference": f"{value:.3g}",
                "allowed": f"{allowed:g}",
            }
            raise ProblemsError(Problem("LS4032", params, where))
    return Readback(counts, weights, float((trained - read).abs().max()), relative)
