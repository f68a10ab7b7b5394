"""How language models are laid out in GGUF: architecture, names, the order of rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lora_scripts.core.problems import Problem, ProblemsError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Architecture:
    """``name``: llama.cpp's. ``rotated``: its rotary embedding pairs neighbouring rows, so that the rows of q
    and k are stored in another order than Transformers has them. ``shifted``: norms are stored as 1 + w.
    ``whole``: whole models are written too, not only adapters."""

    name: str
    rotated: bool = False
    shifted: bool = False
    whole: bool = False


ARCHITECTURES = {
    "llama": Architecture("llama", rotated=True, whole=True),
    "mistral": Architecture("llama", rotated=True, whole=True),
    "qwen2": Architecture("qwen2", whole=True),
    "qwen3": Architecture("qwen3", whole=True),
    "gemma": Architecture("gemma", shifted=True, whole=True),
    "gemma2": Architecture("gemma2", shifted=True),
    "gemma3_text": Architecture("gemma3", shifted=True),
    "glm": Architecture("chatglm"),
    "glm4": Architecture("glm4"),
    "phi3": Architecture("phi3"),
    "smollm3": Architecture("smollm3", rotated=True),
    "granite": Architecture("granite", rotated=True),
}
"""``model_type`` of Transformers -> its layout, each checked against llama.cpp's own converter."""


def architecture(model_type: str, *, whole: bool = False) -> Architecture:
    """ProblemsError LS4310 where the layout is not known here, LS4311 for whole models."""
    found = ARCHITECTURES.get(model_type)
    if found is None or (whole and not found.whole):
        known = ", ".join(name for name, arch in ARCHITECTURES.items() if arch.whole or not whole)
        code = "LS4311" if whole else "LS4310"
        params = {"model_type": model_type, "known": known}
        raise ProblemsError(Problem(code, params))
    return found


def name_map(arch: Architecture, blocks: int) -> Callable[[str], str | None]:
    """Transformers' name of a parameter -> llama.cpp's, None where it has none."""
    import gguf

    kind = next(k for k, name in gguf.MODEL_ARCH_NAMES.items() if name == arch.name)
    table = gguf.get_tensor_name_map(kind, blocks)
    return lambda name: table.get_name(name, try_suffixes=(".weight", ".bias"))


def to_pairs(rows: Tensor, heads: int) -> Tensor:
    """Rows of q or k from Transformers' order (halves of a head apart) to llama.cpp's (pairs side by side):
    its converter's ``permute``. ``rows``: (heads * size, ...)."""
    split = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return split.swapaxes(1, 2).reshape(rows.shape)


def to_halves(rows: Tensor, heads: int) -> Tensor:
    """The way back from ``to_pairs``."""
    split = rows.reshape(heads, rows.shape[0] // heads // 2, 2, *rows.shape[1:])
    return split.swapaxes(1, 2).reshape(rows.shape)


def rotated_heads(arch: Architecture, name: str, config: Mapping[str, Any]) -> int | None:
    """How many heads the rows of the parameter ``name`` belong to if they are reordered, else None."""
    if not arch.rotated:
        return None
    owner = name.rpartition(".")[0]
    if owner.endswith("q_proj"):
        return int(config["num_attention_heads"])
    if owner.endswith("k_proj"):
        return int(config.get("num_key_value_heads") or config["num_attention_heads"])
    return None
