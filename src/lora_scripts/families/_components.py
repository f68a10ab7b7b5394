"""Building, loading and hashing the parts of a base model, through Diffusers' and Transformers' own
classes."""

from __future__ import annotations

import hashlib
import importlib
import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_scripts.core.problems import Location, Problem, ProblemsError

from ._base import Component
from ._header import convert_command, pickles_in
from ._source import Source, confine_shards, resolve, weights_in

if TYPE_CHECKING:
    import torch
    from torch import nn


def quiet_libraries(*names: str) -> None:
    """Progress bars and advice of ``names`` (Transformers where there are none) are not ours to show: what
    matters to the user is in our catalogue. Others are not even imported."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    for name in names or ("transformers",):
        library = importlib.import_module(f"{name}.utils.logging")
        library.set_verbosity_error()
        library.disable_progress_bar()


def component_class(part: Component) -> Any:
    quiet_libraries("diffusers", "transformers")
    return getattr(importlib.import_module(part.library), part.class_name)


def build(part: Component, config: Mapping[str, Any]) -> nn.Module:
    """The module that ``config`` describes, its parameters on the meta device (its buffers are real)."""
    from accelerate import init_empty_weights

    cls = component_class(part)
    with init_empty_weights():
        if part.library == "diffusers":
            return cls.from_config(dict(config))
        return cls(cls.config_class.from_dict(dict(config)))


def folder_of(part: Component, source: Source) -> Path:
    """Where the component lies in a Diffusers folder, or the folder itself if that is the component.

    Raises ProblemsError: LS4011 the folder has no such part, LS4013 its weights are pickles only.
    """
    folder = source.path / part.name if source.kind == "folder" else source.path
    where = Location(str(folder))
    if not (folder / "config.json").is_file():
        raise ProblemsError(Problem("LS4011", {"component": part.name, "path": str(source.path)}, where))
    if not weights_in(folder):
        told = {"component": part.name, "path": str(folder)}
        if pickles_in(folder):
            raise ProblemsError(Problem("LS4013", told | {"command": convert_command(folder)}, where))
        raise ProblemsError(Problem("LS4011", told, where))
    return folder


def config_in(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return config


def config_of(module: nn.Module) -> dict[str, Any]:
    """A loaded component's configuration as a plain dictionary."""
    config: Any = module.config
    return dict(config if isinstance(config, Mapping) else config.to_dict())


def load_folder(part: Component, folder: Path, dtype: torch.dtype) -> nn.Module:
    """The component in ``folder`` by its library's own loader, memory-mapped, offline, safetensors only."""
    cls = component_class(part)
    extra: dict[str, Any] = {}
    if ".fp16" in weights_in(folder)[0].name:
        extra["variant"] = "fp16"
    key = "torch_dtype" if part.library == "diffusers" else "dtype"
    module: nn.Module = cls.from_pretrained(
        str(folder), local_files_only=True, use_safetensors=True, **{key: dtype}, **extra
    )
    return module


def override(name: str, place: str) -> Source:
    """The file or folder that ``components: {name: place}`` points at; a component's own folder is taken
    too."""
    from ._header import read_header

    path = Path(place).expanduser()
    if path.is_dir() and not (path / "model_index.json").is_file():
        confine_shards(path)
        headers = {file.name: read_header(file) for file in weights_in(path)}
        shapes = {n: shape for head in headers.values() for n, shape in head.shapes.items()}
        return Source(place, "file", path, headers, shapes, {})
    return resolve(place)


def freeze(module: nn.Module, device: torch.device | str) -> nn.Module:
    module.requires_grad_(False)
    return module.eval().to(device)


def shared_copy(part: Component, module: nn.Module) -> nn.Module:
    """A second module without adapters that shares ``module``'s base weights: costs no memory."""
    fresh = build(part, config_of(module))
    state = base_state(module)
    fresh.load_state_dict(
        {n: t for n, t in state.items() if n in fresh.state_dict()}, assign=True, strict=True
    )
    for name, buffer in fresh.named_buffers():
        owner, _, leaf = name.rpartition(".")
        if name in state:
            fresh.get_submodule(owner).register_buffer(leaf, state[name], persistent=False)
        else:
            fresh.get_submodule(owner)._buffers[leaf] = buffer.to(next(module.parameters()).device)
    return fresh.requires_grad_(False).eval()


def base_state(module: nn.Module) -> dict[str, torch.Tensor]:
    """Weights and buffers of the base under their own names, whether or not adapters are attached."""
    state: dict[str, Any] = dict(module.named_parameters(remove_duplicate=False))
    state |= dict(module.named_buffers(remove_duplicate=False))
    return {re.sub(r"\.(base_layer\.)+", ".", n): t.detach() for n, t in state.items() if ".lora_" not in n}


def hash_of_module(module: nn.Module) -> str:
    """SHA-256 (hex) over names, dtypes and bytes of the base weights, adapters left out."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(base_state(module).items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().flatten()
        if flat.numel():
            octets: Any = flat.view(torch.uint8).numpy()
            digest.update(octets)
    return digest.hexdigest()


def weight_shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Module name -> shape of its weight, for the layers that an adapter can be attached to; the fused
    weights of a mixture's experts, which are parameters (experts, ., .) and no modules, under their own
    names."""
    from torch import nn

    shapes: dict[str, tuple[int, ...]] = {}
    for name, part in module.named_modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            shapes[name] = tuple(part.weight.shape)
        elif "expert" in type(part).__name__.lower():
            for leaf, weight in part.named_parameters(recurse=False):
                if weight.ndim == 3:
                    shapes[f"{name}.{leaf}"] = tuple(weight.shape)
    return shapes
