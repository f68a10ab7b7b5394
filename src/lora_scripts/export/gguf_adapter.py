"""A text LoRA as a GGUF file that llama.cpp, and what is built on it, puts onto a base when it runs."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_scripts.core.problems import Location, Problem, ProblemsError

from .gguf_file import Entry, Planned, entry, stored_tensors, write_gguf
from .gguf_names import Architecture, architecture, name_map, rotated_heads, to_halves, to_pairs
from .peft_layers import PeftFolder

if TYPE_CHECKING:
    from torch import Tensor

ALPHA = "adapter.lora.alpha"


def refuse_what_gguf_cannot(adapter: PeftFolder) -> None:
    """ProblemsError LS4312: llama.cpp has no DoRA, and fused experts are merged only."""
    kinds = ["DoRA"] if adapter.dora else []
    fused = any(layer.depth or layer.module.endswith("experts") for layer in adapter.layers.values())
    kinds += ["target_parameters"] if fused else []
    if kinds:
        where = Location(str(adapter.path))
        raise ProblemsError(Problem("LS4312", {"path": str(adapter.path), "what": ", ".join(kinds)}, where))


def adapter_tensors(
    adapter: PeftFolder, arch: Architecture, config: Mapping[str, Any], strength: float = 1.0
) -> tuple[float, dict[str, Tensor]]:
    """(alpha, llama.cpp's name -> float32 tensor).

    llama.cpp multiplies by alpha / rank and knows no other scale: the true one is folded into B, and alpha is
    the largest rank. Raises ProblemsError LS4313 for a layer that llama.cpp has no name for.
    """
    named = name_map(arch, int(config["num_hidden_layers"]))
    alpha = float(max(layer.first.shape[0] for layer in adapter.layers.values()))
    tied = bool(config.get("tie_word_embeddings"))
    found: dict[str, Tensor] = {}
    unknown: list[str] = []
    for layer in adapter.layers.values():
        own = f"{layer.module}.weight"
        name = named(own)
        if name is None or (name == "output.weight" and tied):
            unknown.append(layer.module)
            continue
        second = layer.second * (strength * layer.scale * layer.first.shape[0] / alpha)
        heads = rotated_heads(arch, own, config)
        found[f"{name}.lora_a"] = layer.first
        found[f"{name}.lora_b"] = to_pairs(second, heads) if heads else second
    if unknown:
        params = {"path": str(adapter.path), "layers": ", ".join(unknown[:3])}
        raise ProblemsError(Problem("LS4313", params, Location(str(adapter.path))))
    return alpha, found


def write_gguf_adapter(
    path: Path,
    adapter: PeftFolder,
    config: Mapping[str, Any],
    *,
    name: str,
    outtype: str = "f32",
    strength: float = 1.0,
) -> int:
    """Writes the adapter, at ``strength``, to ``path``; how many layers it holds. ``config``: the base's.

    Raises ProblemsError LS4310, LS4312, LS4313.
    """
    refuse_what_gguf_cannot(adapter)
    arch = architecture(str(config["model_type"]))
    alpha, tensors = adapter_tensors(adapter, arch, config, strength)
    entries: list[Entry] = [
        entry("general.type", "adapter"),
        entry("adapter.type", "lora"),
        entry("general.name", name),
        entry(ALPHA, alpha),
    ]
    planned = [Planned(n, tuple(t.shape), partial(tensors.__getitem__, n)) for n, t in tensors.items()]
    write_gguf(path, arch.name, entries, planned, outtype)
    return len(adapter.layers)


def read_gguf_adapter(path: Path, config: Mapping[str, Any]) -> dict[str, tuple[Tensor, Tensor]]:
    """llama.cpp's name -> (A, alpha / rank * B) with rows in Transformers' order: what a client computes
    with."""
    from .gguf_file import read_entries

    arch = architecture(str(config["model_type"]))
    alpha = next(float(item.value) for item in read_entries(path) if item.key == ALPHA)
    halves: dict[str, dict[str, Tensor]] = {}
    for name, _, tensor in stored_tensors(path):
        base, _, half = name.rpartition(".")
        halves.setdefault(base, {})[half] = tensor
    found = {}
    for name, pair in halves.items():
        first, second = pair["lora_a"], pair["lora_b"]
        alias = name.replace("attn_q.", "q_proj.").replace("attn_k.", "k_proj.")
        heads = rotated_heads(arch, alias, config)
        second = to_halves(second, heads) if heads else second
        found[name] = (first, second * (alpha / first.shape[0]))
    return found
