"""A whole language model as a GGUF file for llama.cpp and Ollama."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lora_scripts.core.problems import Location, Problem, ProblemsError

from .gguf_file import FILE_TYPES, ROUNDING, Entry, Planned, entry, stored_tensors, write_gguf
from .gguf_names import Architecture, architecture, name_map, rotated_heads, to_halves, to_pairs

if TYPE_CHECKING:
    from torch import Tensor

OWN = ("general.file_type", "general.quantization_version", "general.name")
"""Entries of a base's GGUF that a new file does not take over."""
READ_WHOLE = ("llama", "qwen2", "qwen3")
USUAL_HEAD = 128


class Weights(Protocol):
    """A model's parameters by Transformers' names, made one at a time."""

    @property
    def names(self) -> Sequence[str]: ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def get(self, name: str) -> Tensor: ...


def _rope(config: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    if "rope_theta" not in found and config.get("rope_theta") is not None:
        found["rope_theta"] = config["rope_theta"]
    return found


def head_size(config: Mapping[str, Any]) -> int:
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def parameters(arch: Architecture, config: Mapping[str, Any]) -> list[Entry]:
    """The figures that llama.cpp builds the model from. Raises ProblemsError LS4311 for a rotary scaling
    that is not known here."""
    a, size, rope = arch.name, head_size(config), _rope(config)
    kind = rope.get("rope_type", "default")
    if kind not in ("default", "linear", "yarn", "llama3"):
        raise ProblemsError(Problem("LS4311", {"model_type": f"rope_type: {kind}", "known": "llama3, yarn"}))
    found = {
        f"{a}.block_count": int(config["num_hidden_layers"]),
        f"{a}.context_length": int(config["max_position_embeddings"]),
        f"{a}.embedding_length": int(config["hidden_size"]),
        f"{a}.feed_forward_length": int(config["intermediate_size"]),
        f"{a}.attention.head_count": int(config["num_attention_heads"]),
        f"{a}.attention.head_count_kv": int(
            config.get("num_key_value_heads") or config["num_attention_heads"]
        ),
        f"{a}.attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        f"{a}.vocab_size": int(config["vocab_size"]),
    }
    if config.get("head_dim"):
        found |= {f"{a}.attention.key_length": size, f"{a}.attention.value_length": size}
    if a == "llama":
        found[f"{a}.rope.dimension_count"] = size
    if rope.get("rope_theta") is not None:
        found[f"{a}.rope.freq_base"] = float(rope["rope_theta"])
    if kind in ("linear", "yarn"):
        found |= {f"{a}.rope.scaling.type": kind, f"{a}.rope.scaling.factor": float(rope["factor"])}
    if kind == "yarn":
        length = int(rope.get("original_max_position_embeddings") or config["max_position_embeddings"])
        found[f"{a}.rope.scaling.original_context_length"] = length
    return [entry(key, value) for key, value in found.items()]


def rope_factors(config: Mapping[str, Any]) -> Tensor | None:
    """Llama 3.1's slower rotations as llama.cpp keeps them, (head size / 2,), as its converter computes them;
    None where the base has none."""
    import torch

    rope = _rope(config)
    if rope.get("rope_type") != "llama3":
        return None
    size = head_size(config)
    factor, length = float(rope.get("factor", 8.0)), float(rope.get("original_max_position_embeddings", 8192))
    low, high = float(rope.get("low_freq_factor", 1.0)), float(rope.get("high_freq_factor", 4.0))
    factors = []
    for exponent in torch.arange(0, size, 2, dtype=torch.float32) / size:
        wave = 2 * math.pi * float(rope.get("rope_theta", 10000.0) ** exponent)
        if wave < length / high:
            factors.append(1.0)
        elif wave > length / low:
            factors.append(factor)
        else:
            smooth = (length / wave - low) / (high - low)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return torch.tensor(factors, dtype=torch.float32)


def _changed(arch: Architecture, name: str, config: Mapping[str, Any]) -> Callable[[Tensor], Tensor]:
    heads = rotated_heads(arch, name, config)
    if heads:
        return lambda tensor: to_pairs(tensor, heads)
    if arch.shifted and name.endswith("norm.weight"):
        return lambda tensor: tensor.float() + 1
    return lambda tensor: tensor


def plan(weights: Weights, arch: Architecture, config: Mapping[str, Any]) -> list[Planned]:
    """Every tensor of the file under llama.cpp's name; ProblemsError LS4315 for a parameter without one."""
    named = name_map(arch, int(config["num_hidden_layers"]))
    tied = bool(config.get("tie_word_embeddings"))
    found, unknown = [], []
    for own in weights.names:
        if (tied and own == "lm_head.weight") or own.endswith("rotary_emb.inv_freq"):
            continue
        name = named(own)
        if name is None:
            unknown.append(own)
            continue
        change = _changed(arch, own, config)
        made = lambda own=own, change=change: change(weights.get(own))  # noqa: E731
        found.append(Planned(name, weights.shape(own), made))
    if unknown:
        raise ProblemsError(Problem("LS4315", {"names": ", ".join(unknown[:3]), "count": len(unknown)}))
    factors = rope_factors(config) if arch.name == "llama" else None
    if factors is not None:
        found.append(Planned("rope_freqs.weight", tuple(factors.shape), lambda: factors))
    return found


def write_gguf_model(
    path: Path,
    weights: Weights,
    config: Mapping[str, Any],
    vocabulary: Sequence[Entry],
    *,
    name: str,
    outtype: str = "f16",
    known: Sequence[Entry] = (),
) -> int:
    """Writes a whole model; how many tensors it holds. ``known``: the head of the GGUF that the base came
    from, whose entries are taken over.

    Raises ProblemsError LS4311, LS4315.
    """
    import gguf

    arch = architecture(str(config["model_type"]), whole=True)
    head = [
        entry("general.type", "model"),
        entry("general.name", name),
        *(parameters(arch, config) if not known else ()),
        entry("general.file_type", int(gguf.LlamaFileType[FILE_TYPES[outtype]])),
        entry("general.quantization_version", int(gguf.GGML_QUANT_VERSION)),
        *vocabulary,
    ]
    present = {item.key for item in head} | set(OWN)
    head += [item for item in known if item.key not in present]
    planned = plan(weights, arch, config)
    write_gguf(path, arch.name, head, planned, outtype)
    return len(planned)


def check_gguf_model(path: Path, weights: Weights, config: Mapping[str, Any]) -> float:
    """Reads every tensor back and compares it with what was to be written; the largest relative distance.

    Raises ProblemsError LS4316 where one is missing or further away than its storage rounds.
    """
    arch = architecture(str(config["model_type"]), whole=True)
    wanted = {item.name: item for item in plan(weights, arch, config)}
    worst, where = 0.0, Location(str(path))
    for name, kind, found in stored_tensors(path):
        item = wanted.pop(name, None)
        expected = item.get().float().cpu() if item else found + 1
        distance = float((found - expected).norm() / expected.norm().clamp_min(1e-12))
        worst = max(worst, distance)
        if item is None or not distance <= ROUNDING[kind]:
            params = {"path": str(path), "name": name, "difference": f"{distance:.3g}"}
            raise ProblemsError(Problem("LS4316", params, where))
    if wanted:
        params = {"path": str(path), "name": next(iter(wanted)), "difference": "-"}
        raise ProblemsError(Problem("LS4316", params, where))
    return worst


def transformers_reads(config: Mapping[str, Any]) -> bool:
    """Whether Transformers makes the right model of such a GGUF file: it has no rotary scaling there, and
    takes every Qwen3 to have heads of 128."""
    arch = architecture(str(config["model_type"]), whole=True)
    plain = _rope(config).get("rope_type", "default") == "default"
    usual = arch.name != "qwen3" or head_size(config) == USUAL_HEAD
    return arch.name in READ_WHOLE and plain and usual


def fill_from_gguf(path: Path, module: Any, config: Mapping[str, Any]) -> None:
    """Puts the numbers of a GGUF file into a loaded model of the same kind, in place."""
    import torch

    arch = architecture(str(config["model_type"]), whole=True)
    named = name_map(arch, int(config["num_hidden_layers"]))
    own = {named(name): (name, parameter) for name, parameter in module.named_parameters()}
    with torch.no_grad():
        for name, _, numbers in stored_tensors(path):
            if name not in own:
                continue
            key, parameter = own[name]
            if heads := rotated_heads(arch, key, config):
                numbers = to_halves(numbers, heads)
            elif arch.shifted and key.endswith("norm.weight"):
                numbers = numbers - 1
            parameter.copy_(numbers)
