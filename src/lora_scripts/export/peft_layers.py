"""A PEFT adapter's folder, read without PEFT: which weights it changes, and by how much."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_scripts.core.problems import Location, Problem, ProblemsError
from lora_scripts.families._header import PICKLES, Header, read_header, refuse_pickle

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PICKLED = "adapter_model.bin"
PREFIX = "base_model.model."
HALF = re.compile(r"^(?P<module>.+)\.lora_(?P<half>[AB])\.weight$")
MAGNITUDE = ".lora_magnitude_vector"
INNER = ".base_layer"
"""What PEFT puts between a module with several adapted parameters and the inner ones' matrices."""


@dataclass(frozen=True)
class Layer:
    """One adapted weight: ``weight + scale * B @ A``.

    ``first`` (r, in) and ``second`` (out, r); of E fused experts (r * E, in) and (out, r * E), as PEFT lays
    them out. ``magnitude`` (out,) where the layer is a DoRA. ``depth``: how many wrappers lie around the
    parameter, for modules with several adapted parameters.
    """

    module: str
    first: Tensor
    second: Tensor
    scale: float
    magnitude: Tensor | None = None
    depth: int = 0


@dataclass(frozen=True)
class PeftFolder:
    """``layers``: the module's name with ``.base_layer`` for each wrapper -> what is added to it."""

    path: Path
    config: Mapping[str, Any]
    header: Header
    layers: Mapping[str, Layer]

    @property
    def base(self) -> str | None:
        """The base that the adapter itself names."""
        return self.config.get("base_model_name_or_path") or None

    @property
    def parameters(self) -> tuple[str, ...]:
        """Parameters that are adapted themselves, as fused experts are (PEFT's ``target_parameters``)."""
        return tuple(self.config.get("target_parameters") or ())

    @property
    def dora(self) -> bool:
        return any(layer.magnitude is not None for layer in self.layers.values())


def _stop(code: str, path: Path, **params: object) -> ProblemsError:
    return ProblemsError(Problem(code, {"path": str(path), **params}, Location(str(path))))


def adapter_folder(path: Path) -> Path:
    """The folder of an adapter that is named by its folder or by its weights; ProblemsError LS4300, LS4002
    to LS4005."""
    if path.suffix.lower() in (".safetensors", *PICKLES) and path.is_file():
        read_header(path)  # what it is instead, is the plainer trouble
    folder = path.parent if path.name == WEIGHTS else path
    if not (folder / WEIGHTS).is_file() and (folder / PICKLED).is_file():
        refuse_pickle(folder / PICKLED)
    if not (folder / WEIGHTS).is_file() or not (folder / CONFIG).is_file():
        raise _stop("LS4300", path)
    return folder


def _by_pattern(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """PEFT's own rule for ``rank_pattern`` and ``alpha_pattern``: the first key that is the name's end."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def _unusable(config: Mapping[str, Any], names: Mapping[str, Any]) -> list[str]:
    """What the adapter has that is more than matrices beside linear layers."""
    found = [] if config.get("peft_type") == "LORA" else [str(config.get("peft_type"))]
    found += ["modules_to_save"] if config.get("modules_to_save") else []
    # PEFT would import the module that this names
    found += ["megatron_config"] if config.get("megatron_config") else []
    found += ["bias"] if (config.get("bias") or "none") != "none" or config.get("lora_bias") else []
    init = config.get("init_lora_weights", True)
    changed = isinstance(init, str) and init.startswith(("pissa", "olora", "corda", "loftq"))
    found += [f"init_lora_weights: {init}"] if changed else []
    odd = [n for n in names if not HALF.match(n) and not n.endswith(MAGNITUDE)]
    return found + odd[:1]


def read_peft(path: Path) -> PeftFolder:
    """Reads an adapter, its matrices as float32 on the CPU.

    Raises ProblemsError: LS4300 no adapter there, LS4301 it holds what is no plain LoRA or DoRA, LS4302 a
    matrix without its partner, LS4003 to LS4005 not a safetensors file.
    """
    from safetensors import safe_open

    folder = adapter_folder(path)
    weights = folder / WEIGHTS
    try:
        config = json.loads((folder / CONFIG).read_text("utf-8"))
    except ValueError:
        raise _stop("LS4300", path) from None
    header = read_header(weights)
    if unusable := _unusable(config, header.shapes):
        raise _stop("LS4301", weights, what=", ".join(unusable))
    halves: dict[str, dict[str, Tensor]] = {}
    magnitudes: dict[str, Tensor] = {}
    with safe_open(str(weights), framework="pt") as handle:
        for name in header.shapes:
            tensor = handle.get_tensor(name).float()
            if match := HALF.match(name):
                halves.setdefault(match["module"], {})[match["half"]] = tensor
            else:
                magnitudes[name.removesuffix(MAGNITUDE)] = tensor.flatten()
    layers = {}
    for full, pair in halves.items():
        if set(pair) != {"A", "B"}:
            raise _stop("LS4302", weights, layer=full)
        module = full.removeprefix(PREFIX)
        plain = module.replace(INNER, "")
        rank = int(_by_pattern(config.get("rank_pattern") or {}, plain, config["r"]))
        alpha = float(_by_pattern(config.get("alpha_pattern") or {}, plain, config["lora_alpha"]))
        scale = alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
        depth = module.count(INNER)
        layers[module] = Layer(plain, pair["A"], pair["B"], scale, magnitudes.get(full), depth)
    return PeftFolder(folder, config, header, layers)


def merged(weight: Tensor, layer: Layer, strength: float = 1.0) -> Tensor:
    """``weight`` (out, in), or (E, ...) of fused experts, with the layer's whole effect, as float32.

    LoRA: ``W + strength * scale * B @ A`` (Hu et al. 2021). DoRA (Liu et al. 2024, eq. 5): the rows of that
    sum are brought to the length ``magnitude``; it has no strength other than 1.
    """
    full = weight.float()
    total = full + strength * delta(layer, full)
    if layer.magnitude is None:
        return total
    return total * (layer.magnitude.to(total.device) / total.norm(dim=1)).unsqueeze(1)


def delta(layer: Layer, weight: Tensor, transposed: bool | None = None) -> Tensor:
    """``scale * B @ A`` in the shape of ``weight``.

    Fused experts lie as (E, out, in) or as (E, in, out); ``transposed`` says the latter, None reads it from
    the shapes.
    """
    import torch

    first, second = layer.first.to(weight.device), layer.second.to(weight.device)
    if weight.ndim == 2:
        return layer.scale * (second @ first)
    experts, rows, columns = weight.shape
    if transposed is None:
        transposed = (rows, columns) != (second.shape[0], first.shape[1])
    factors = (second.reshape(second.shape[0], -1, experts), first.reshape(experts, -1, first.shape[1]))
    path = "ore,eri->eio" if transposed else "ore,eri->eoi"
    return layer.scale * torch.einsum(path, *factors)
