"""Building, loading and hashing the parts of a base model, through Diffusers' and Transformers' own
classes."""

from __future__ import annotations

import copy
import hashlib
import importlib
import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_scripts.adapters.compiled_later import compiled_later
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
    with compiled_later():
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
    extra: dict[str, Any] = {"variant": "fp16"} if is_variant(folder) else {}
    key = "torch_dtype" if part.library == "diffusers" else "dtype"
    module: nn.Module = cls.from_pretrained(
        str(folder), local_files_only=True, use_safetensors=True, **{key: dtype}, **extra
    )
    return module


def is_variant(folder: Path) -> bool:
    """Whether the folder holds its weights in the fp16 variant alone."""
    return ".fp16" in weights_in(folder)[0].name


def state_in(folder: Path) -> dict[str, torch.Tensor]:
    """The weights in ``folder`` as views into the mapped files."""
    from safetensors import safe_open

    found: dict[str, torch.Tensor] = {}
    for path in weights_in(folder):
        with safe_open(str(path), framework="pt") as handle:
            found |= {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    return found


def fitting(
    part: Component, place: Path, state: Mapping[str, torch.Tensor], module: nn.Module
) -> dict[str, torch.Tensor]:
    """Those of ``state``, read from ``place``, that ``module`` has. ProblemsError LS4012 where one of the
    module's own is missing or of another shape."""
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    missing = sorted(set(wanted) - set(state))
    wrong = sorted(n for n in set(wanted) & set(state) if tuple(state[n].shape) != wanted[n])
    if missing or wrong:
        params = {"component": part.name, "path": str(place), "names": ", ".join((missing + wrong)[:4])}
        told = {**params, "count": len(missing) + len(wrong)}
        raise ProblemsError(Problem("LS4012", told, Location(str(place))))
    return {name: state[name] for name in wanted}


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


def freeze(module: nn.Module) -> nn.Module:
    return module.requires_grad_(False).eval()


def shared_copy(module: nn.Module) -> nn.Module:
    """A second module without adapters that shares ``module``'s base weights, however they are stored: costs
    no memory."""
    return _twin(module).requires_grad_(False).eval()


def _twin(module: nn.Module) -> nn.Module:
    from peft.tuners.tuners_utils import BaseTunerLayer
    from torch import nn

    if isinstance(module, BaseTunerLayer):
        return _twin(module.get_base_layer())
    made = copy.copy(module)
    own = vars(made)
    own.pop("peft_config", None)
    tables = [name for name, table in vars(nn.Module()).items() if isinstance(table, dict)]
    own |= {name: copy.copy(own[name]) for name in tables}
    own["_modules"] = {name: child and _twin(child) for name, child in module._modules.items()}
    return made


def base_state(module: nn.Module) -> dict[str, torch.Tensor]:
    """Weights and buffers of the base under their own names, whether or not adapters are attached."""
    state: dict[str, Any] = dict(module.named_parameters(remove_duplicate=False))
    state |= dict(module.named_buffers(remove_duplicate=False))
    # of weights in few bits their scales, which are no parameters
    state |= {n: t for n, t in module.state_dict().items() if n not in state and hasattr(t, "detach")}
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
        if isinstance(part, nn.Linear):  # packed weights have another shape
            shapes[name] = (part.out_features, part.in_features)
        elif isinstance(part, nn.Conv2d):
            shapes[name] = tuple(part.weight.shape)
        elif "expert" in type(part).__name__.lower():
            for leaf, weight in part.named_parameters(recurse=False):
                if weight.ndim == 3:
                    shapes[f"{name}.{leaf}"] = tuple(weight.shape)
    return shapes
