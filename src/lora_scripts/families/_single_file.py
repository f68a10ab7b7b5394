"""One ``.safetensors`` file in the original layout: loaded part by part, memory-mapped, never asking a hub.

The configurations come from the family and the shapes in the header; the key conversions are Diffusers' own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lora_scripts.core.problems import Location, Problem, ProblemsError

from ._base import Component
from ._components import config_of as module_config
from ._components import fitting
from ._source import Source

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Shapes = Mapping[str, tuple[int, ...]]
Convert = Callable[[dict[str, Any], Mapping[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Layout:
    """How a component lies in a single file.

    ``prefixes``: what its keys start with in a whole file, then what a file of its own may use ("" for bare).
    ``marker``: the end of a key that is there if the component is, or several of which one is. ``convert``:
    (keys without prefix -> tensor, configuration) -> the module's own names. ``config``: (shapes without
    prefix) -> configuration.
    """

    prefixes: tuple[str, ...]
    marker: str | tuple[str, ...]
    config: Callable[[Shapes], dict[str, Any]]
    convert: Convert


def own_shapes(layout: Layout, shapes: Shapes) -> tuple[str, dict[str, tuple[int, ...]]] | None:
    """The prefix in use and the component's shapes without it; None where the file does not hold it."""
    for prefix in layout.prefixes:
        own = {name[len(prefix) :]: shape for name, shape in shapes.items() if name.startswith(prefix)}
        if any(name.endswith(layout.marker) for name in own):
            return prefix, own
    return None


def config_of(part: Component, layout: Layout, source: Source) -> dict[str, Any]:
    """The component's configuration from its shapes; ProblemsError LS4011 where the file lacks it, LS4012
    where a name or a side of a shape that tells its widths is not there."""
    found = own_shapes(layout, source.shapes)
    where = Location(str(source.path))
    told: dict[str, Any] = {"component": part.name, "path": str(source.path)}
    if found is None:
        raise ProblemsError(Problem("LS4011", told, where))
    try:
        return layout.config(found[1])
    except (LookupError, ValueError) as error:
        name = str(error.args[0]) if isinstance(error, KeyError) else layout.marker
        raise ProblemsError(Problem("LS4012", told | {"names": name, "count": 1}, where)) from error


def read(source: Source, prefix: str, keep: Iterable[str]) -> dict[str, Tensor]:
    """Tensors as views into the mapped file: nothing is copied until it is converted to another dtype."""
    from safetensors import safe_open

    kept = set(keep)
    tensors: dict[str, Tensor] = {}
    for header in source.headers.values():
        with safe_open(str(header.path), framework="pt") as handle:
            for name in header.shapes:
                own = name[len(prefix) :]
                if name.startswith(prefix) and own in kept:
                    tensors[own] = handle.get_tensor(name)
    return tensors


def widened(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights that are stored in eight bits as bfloat16, which holds every one of their values; those with a
    ``scale_weight`` beside them, as ComfyUI stores them, times that."""
    import torch

    found = {}
    for name, tensor in tensors.items():
        owner, _, leaf = name.rpartition(".")
        if leaf in ("scale_weight", "scale_input", "scaled_fp8"):
            continue
        if tensor.is_floating_point() and tensor.element_size() == 1:
            scale = tensors.get(f"{owner}.scale_weight")
            tensor = tensor.to(torch.bfloat16) if scale is None else (tensor.float() * scale.float())
            tensor = tensor.to(torch.bfloat16)
        found[name] = tensor
    return found


def state_of(part: Component, layout: Layout, source: Source, module: nn.Module) -> dict[str, Tensor]:
    """The component's weights in the file under the names of ``module``, as they are stored.

    Raises ProblemsError: LS4011 the component is absent, LS4012 names or shapes do not fit.
    """
    found = own_shapes(layout, source.shapes)
    if found is None:
        where = Location(str(source.path))
        raise ProblemsError(Problem("LS4011", {"component": part.name, "path": str(source.path)}, where))
    prefix, shapes = found
    state = layout.convert(widened(read(source, prefix, shapes)), module_config(module))
    return fitting(part, source.path, state, module)


def load(
    part: Component, layout: Layout, source: Source, module: nn.Module, *, device: Any, dtype: torch.dtype
) -> nn.Module:
    """Fills ``module`` (parameters on the meta device) from the file, each tensor cast on its way.
    ProblemsError as ``state_of``."""
    state = state_of(part, layout, source, module)
    cast = {name: state.pop(name).to(device=device, dtype=dtype) for name in list(state)}
    module.load_state_dict(cast, assign=True, strict=True)
    return module


# Conversions and configurations that several families share.


def convert_unet(state: dict[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    if any(name.startswith("down_blocks.") for name in state):
        return state
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    prefixed = {f"model.diffusion_model.{name}": tensor for name, tensor in state.items()}
    return convert_ldm_unet_checkpoint(prefixed, config)


def convert_vae(state: dict[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    if any(name.startswith("encoder.down_blocks.") for name in state):
        return state
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    return convert_ldm_vae_checkpoint({f"first_stage_model.{n}": t for n, t in state.items()}, config)


def convert_clip(state: dict[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Some files lack ``text_model.`` in front of the names, and so do newer libraries' modules."""
    return {name.removeprefix("text_model."): tensor for name, tensor in state.items()}


def _numbers(shapes: Shapes, start: str) -> list[int]:
    return sorted({int(name[len(start) :].split(".")[0]) for name in shapes if name.startswith(start)})


def unet_widths(shapes: Shapes) -> dict[str, Any]:
    """What the shapes of an original-layout U-Net say about its configuration (names without prefix)."""
    widths: list[int] = []
    attends: list[bool] = []
    layers, count = 0, 0
    for number in _numbers(shapes, "input_blocks.")[1:]:
        if f"input_blocks.{number}.0.op.weight" in shapes:
            layers, count = max(layers, count), 0
            continue
        width = shapes[f"input_blocks.{number}.0.in_layers.2.weight"][0]
        if count == 0:
            widths.append(width)
            attends.append(f"input_blocks.{number}.1.norm.weight" in shapes)
        count += 1
    context = next((shape[1] for name, shape in shapes.items() if name.endswith("attn2.to_k.weight")), None)
    return {
        "in_channels": shapes["input_blocks.0.0.weight"][1],
        "out_channels": shapes["out.2.weight"][0],
        "block_out_channels": widths,
        "layers_per_block": max(layers, count),
        "cross_attention_dim": context,
        "down_block_types": ["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends],
        "up_block_types": ["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)],
    }


def vae_widths(shapes: Shapes) -> dict[str, Any]:
    """Likewise for an autoencoder, in the original names or in Diffusers'."""
    diffusers = any(name.startswith("encoder.down_blocks.") for name in shapes)
    start, inner = ("encoder.down_blocks.", "resnets") if diffusers else ("encoder.down.", "block")
    levels = _numbers(shapes, start)
    widths = [shapes[f"{start}{level}.{inner}.0.conv1.weight"][0] for level in levels]
    return {
        "block_out_channels": widths,
        "layers_per_block": len(_numbers(shapes, f"{start}0.{inner}.")),
        "latent_channels": shapes["decoder.conv_in.weight"][1],
        "down_block_types": ["DownEncoderBlock2D"] * len(levels),
        "up_block_types": ["UpDecoderBlock2D"] * len(levels),
    }


def clip_widths(shapes: Shapes) -> dict[str, Any]:
    """Likewise for a CLIP text encoder; every published one has heads of 64."""
    own = {name.removeprefix("text_model."): shape for name, shape in shapes.items()}
    width = own["embeddings.token_embedding.weight"][1]
    return {
        "vocab_size": own["embeddings.token_embedding.weight"][0],
        "hidden_size": width,
        "max_position_embeddings": own["embeddings.position_embedding.weight"][0],
        "num_hidden_layers": len(_numbers(own, "encoder.layers.")),
        "num_attention_heads": max(1, width // 64),
        "intermediate_size": own["encoder.layers.0.mlp.fc1.weight"][0],
    }
