"""ChatGLM2 and ChatGLM3 as their files have them, and as the native GLM classes of Transformers name them.

The computation is the same one: RMSNorm before attention and MLP, a fused SwiGLU whose gate comes first, a
bias on query, key and value only, grouped queries, rotary positions of neighbouring pairs over half of each
head (Su et al. 2021), a head of its own (Zeng et al. 2022). Only names differ, and that the original keeps
query, key and value in one matrix.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_scripts.core.problems import Location, Problem, ProblemsError

if TYPE_CHECKING:
    from torch import Tensor

NAMES = (
    ("transformer.embedding.word_embeddings", "model.embed_tokens"),
    ("transformer.encoder.layers", "model.layers"),
    ("transformer.encoder.final_layernorm", "model.norm"),
    ("transformer.output_layer", "lm_head"),
    ("self_attention.dense", "self_attn.o_proj"),
    ("mlp.dense_h_to_4h", "mlp.gate_up_proj"),
    ("mlp.dense_4h_to_h", "mlp.down_proj"),
)
"""Original part of a name -> native one."""
FUSED = "self_attention.query_key_value"
PARTS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
"""The rows of the fused matrix, in this order."""
UNUSED = r"rotary_pos_emb\.inv_freq$"
"""In the checkpoints, and a function of the configuration."""

DEFAULTS: dict[str, Any] = {
    "num_layers": 28,
    "padded_vocab_size": 65024,
    "hidden_size": 4096,
    "ffn_hidden_size": 13696,
    "kv_channels": 128,
    "num_attention_heads": 32,
    "seq_length": 2048,
    "layernorm_epsilon": 1e-5,
    "multi_query_group_num": 1,
    "add_qkv_bias": False,
    "rope_ratio": 1.0,
}
"""What the original assumes where ``config.json`` is silent."""
FIXED: dict[str, tuple[Any, Any]] = {
    "multi_query_attention": (False, True),
    "rmsnorm": (True, True),
    "post_layer_norm": (True, True),
    "apply_residual_connection_post_layernorm": (False, False),
    "add_bias_linear": (False, False),
    "fp32_residual_connection": (False, False),
    "interleaved_qkv": (False, False),
    "rotary_percent": (0.5, 0.5),
    "pre_seq_len": (None, None),
}
"""Key -> what its absence means, and the only value that the native classes compute."""
GLM4_WORDS = 151552


def refuse(config: Mapping[str, Any], path: Path) -> None:
    """Stops at a model that goes by the same name but is another.

    Raises ProblemsError: LS4150 ChatGLM-6B (the first), LS4151 GLM-4's original files, LS4152 a variant that
    the native classes do not compute, LS4153 weights that are quantised already.
    """
    where = Location(str(path / "config.json"))
    if "position_encoding_2d" in config or "inner_hidden_size" in config or "num_layers" not in config:
        raise ProblemsError(Problem("LS4150", {"path": str(path)}, where))
    if int(config.get("padded_vocab_size", 0)) >= GLM4_WORDS or "vision_config" in config:
        raise ProblemsError(Problem("LS4151", {"path": str(path)}, where))
    if config.get("quantization_bit"):
        params = {"path": str(path), "bits": config["quantization_bit"]}
        raise ProblemsError(Problem("LS4153", params, where))
    wrong = {key: config.get(key, absent) for key, (absent, known) in FIXED.items()}
    raise_for = [
        Problem("LS4152", {"key": key, "value": str(value), "known": str(FIXED[key][1])}, where)
        for key, value in wrong.items()
        if value != FIXED[key][1]
    ]
    if raise_for:
        raise ProblemsError(raise_for)


def generation(given: str, folder: Path, config: Mapping[str, Any]) -> int | None:
    """2 or 3, None where nothing tells. The original's tokenizer code is read as text, never run; then the
    tokenizer's settings, then the names that the files and the user have for the model."""
    code, settings = folder / "tokenization_chatglm.py", folder / "tokenizer_config.json"
    told = settings.read_text("utf-8", "replace") if settings.is_file() else ""
    if code.is_file():
        return 3 if "<|assistant|>" in code.read_text("utf-8", "replace") else 2
    if "<|assistant|>" in told:
        return 3
    for name in (str(config.get("_name_or_path", "")), told, folder.name, given):
        plain = re.sub(r"[^a-z0-9]", "", name.lower())
        if "chatglm3" in plain:
            return 3
        if "chatglm2" in plain or "codegeex2" in plain:
            return 2
    return None


def _rotary(config: Mapping[str, Any], born: int | None, path: Path) -> dict[str, Any]:
    """ChatGLM3 stretches the base of the angles by ``rope_ratio``; ChatGLM2-32K divides the positions by it
    (position interpolation, Chen et al. 2023)."""
    ratio = float(config.get("rope_ratio") or 1.0)
    common = {"rope_theta": 10000.0, "partial_rotary_factor": 0.5}
    if ratio == 1.0:
        return {"rope_type": "default", **common}
    if born is None:
        raise ProblemsError(Problem("LS4155", {"path": str(path)}, Location(str(path))))
    if born == 2:
        return {"rope_type": "linear", "factor": ratio, **common}
    return {"rope_type": "default", **common, "rope_theta": 10000.0 * ratio}


def native_settings(config: Mapping[str, Any], born: int | None, path: Path) -> dict[str, Any]:
    """The keywords of a ``GlmConfig`` that computes what ``config`` describes.

    ``born``: see ``generation``. Raises ProblemsError LS4150 to LS4153, LS4155.
    """
    refuse(config, path)
    told = {**DEFAULTS, **config}
    return {
        "vocab_size": int(told["padded_vocab_size"]),
        "hidden_size": int(told["hidden_size"]),
        "intermediate_size": int(told["ffn_hidden_size"]),
        "num_hidden_layers": int(told["num_layers"]),
        "num_attention_heads": int(told["num_attention_heads"]),
        "num_key_value_heads": int(told["multi_query_group_num"]),
        "head_dim": int(told["kv_channels"]),
        "rms_norm_eps": float(told["layernorm_epsilon"]),
        "max_position_embeddings": int(told["seq_length"]),
        "attention_bias": bool(told["add_qkv_bias"]),
        "attention_dropout": 0.0,
        "tie_word_embeddings": bool(config.get("tie_word_embeddings", False)),
        "rope_parameters": _rotary(config, born, path),
        "bos_token_id": None,
        "eos_token_id": config.get("eos_token_id", 2),
        "pad_token_id": int(config.get("pad_token_id") or 0),
    }


def expected(settings: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Original name -> shape of every weight of a model with these ``native_settings``."""
    width, inner, words = (settings[k] for k in ("hidden_size", "intermediate_size", "vocab_size"))
    heads = settings["num_attention_heads"] * settings["head_dim"]
    fused = heads + 2 * settings["num_key_value_heads"] * settings["head_dim"]
    found = {
        "transformer.embedding.word_embeddings.weight": (words, width),
        "transformer.encoder.final_layernorm.weight": (width,),
    }
    if not settings["tie_word_embeddings"]:
        found["transformer.output_layer.weight"] = (words, width)
    layer: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (width,),
        f"{FUSED}.weight": (fused, width),
        "self_attention.dense.weight": (width, heads),
        "post_attention_layernorm.weight": (width,),
        "mlp.dense_h_to_4h.weight": (2 * inner, width),
        "mlp.dense_4h_to_h.weight": (width, inner),
    }
    if settings["attention_bias"]:
        layer[f"{FUSED}.bias"] = (fused,)
    for number in range(settings["num_hidden_layers"]):
        found |= {f"transformer.encoder.layers.{number}.{name}": shape for name, shape in layer.items()}
    return found


def check_weights(shapes: Mapping[str, tuple[int, ...]], settings: Mapping[str, Any], path: Path) -> None:
    """Every tensor of the files has its place and every place its tensor: seen in the headers, before a
    weight is read. ProblemsError LS4156."""
    wanted = expected(settings)
    given = {name: shape for name, shape in shapes.items() if not re.search(UNUSED, name)}
    wrong = sorted(name for name in wanted.keys() | given.keys() if wanted.get(name) != given.get(name))
    if wrong:
        params = {"path": str(path), "count": len(wrong), "names": ", ".join(wrong[:3])}
        raise ProblemsError(Problem("LS4156", params, Location(str(path))))


def conversions() -> list[Any]:
    """The mapping in the terms of Transformers' own loader, which applies it tensor by tensor."""
    from transformers.core_model_loading import Split, WeightConverter, WeightRenaming

    renamed: list[Any] = [WeightRenaming(original, native) for original, native in NAMES]
    return [*renamed, WeightConverter(FUSED, list(PARTS), operations=[Split(dim=0)])]


def original_name(name: str) -> str:
    """A native parameter's or module's name as the original has it; query, key and value share one."""
    for part in PARTS:
        name = name.replace(part, FUSED)
    for original, native in NAMES:
        name = re.sub(rf"\b{re.escape(native)}\b", original, name)
    return name


def original_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A whole model's weights, native -> original names, query, key and value put together again."""
    import torch

    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if any(part in name for part in PARTS[1:]):
            continue
        if PARTS[0] in name:
            tensor = torch.cat([state[name.replace(PARTS[0], part)] for part in PARTS], dim=0)
        found[original_name(name)] = tensor
    return found


def _fuse(parts: Mapping[str, Tensor | None], kind: str, rows: Mapping[str, int], rank: int) -> Tensor:
    """One half of the adapter of the fused matrix from the three (None: not adapted): A of (3r, in), B of
    (out, 3r) with the parts on its diagonal."""
    import torch

    present = next(tensor for tensor in parts.values() if tensor is not None)
    if kind == "A":
        empty = present.new_zeros(rank, present.shape[1])
        given = [parts[part] for part in PARTS]
        return torch.cat([empty if one is None else one for one in given])
    blocks = []
    for part in PARTS:
        tensor = parts[part]
        blocks.append(present.new_zeros(rows[part], rank) if tensor is None else tensor)
    return torch.block_diag(*blocks)


def _widened(tensor: Tensor, kind: str, rank: int) -> Tensor:
    import torch

    missing = rank - tensor.shape[0 if kind == "A" else 1]
    zeros = (
        tensor.new_zeros(missing, tensor.shape[1]) if kind == "A" else tensor.new_zeros(len(tensor), missing)
    )
    return torch.cat([tensor, zeros], dim=0 if kind == "A" else 1)


def to_original_layout(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """A LoRA of the native classes as one of rank 3r for the original's modules, with the same effect.

    ``state``: names that end in ``.lora_A.weight`` (r, in) and ``.lora_B.weight`` (out, r), any prefix.
    ``config``: the base's ``config.json``. The three LoRAs of query, key and value become the blocks of the
    fused matrix's; all others are widened with zeros, since programs that serve LoRAs know one rank and one
    alpha. Scaled by ``alpha / r``, it goes with ``adapter_settings``. Raises ValueError for anything but a
    plain LoRA of one rank.
    """
    told = {**DEFAULTS, **config}
    width = int(told["kv_channels"])
    groups = int(told["multi_query_group_num"]) * width
    rows = dict(zip(PARTS, (int(told["num_attention_heads"]) * width, groups, groups), strict=True))
    kinds = {name: re.fullmatch(r"(.+)\.lora_([AB])\.weight", name) for name in state}
    if not all(kinds.values()):
        raise ValueError([name for name, match in kinds.items() if match is None])
    ranks = {state[name].shape[0 if m and m[2] == "A" else 1] for name, m in kinds.items()}
    if len(ranks) != 1:
        raise ValueError(sorted(ranks))
    rank = ranks.pop()
    found: dict[str, Tensor] = {}
    for name, match in kinds.items():
        assert match is not None
        module, kind = match[1], match[2]
        part = next((p for p in PARTS if module.endswith(p)), None)
        target = f"{original_name(module)}.lora_{kind}.weight"
        if part is None:
            found[target] = _widened(state[name], kind, 3 * rank)
        elif target not in found:
            other = {p: state.get(name.replace(part, p)) for p in PARTS}
            found[target] = _fuse(other, kind, rows, rank)
    return found


def adapter_settings(settings: Mapping[str, Any], state: Mapping[str, Tensor]) -> dict[str, Any]:
    """``adapter_config.json`` for ``to_original_layout``'s weights ``state``: rank and alpha so that the
    scale stays (alpha / r, or alpha / sqrt(r) with rsLoRA). Raises ValueError where layers have their own."""
    own = [
        key for key in ("rank_pattern", "alpha_pattern", "use_dora", "target_parameters") if settings.get(key)
    ]
    if own:
        raise ValueError(own)
    return {
        **settings,
        "r": 3 * int(settings["r"]),
        "lora_alpha": settings["lora_alpha"] * (math.sqrt(3) if settings.get("use_rslora") else 3),
        "target_modules": sorted({name.split(".lora_")[0].rsplit(".", 1)[-1] for name in state}),
    }
