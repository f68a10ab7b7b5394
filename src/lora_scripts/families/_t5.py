"""T5's encoder as picture models use it, from files in its published layout, and its tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ._single_file import Layout, Shapes

CONFIG: dict[str, Any] = {
    "dense_act_fn": "gelu_new",
    "dropout_rate": 0.1,
    "eos_token_id": 1,
    "feed_forward_proj": "gated-gelu",
    "is_encoder_decoder": True,
    "is_gated_act": True,
    "layer_norm_epsilon": 1e-06,
    "pad_token_id": 0,
    "relative_attention_max_distance": 128,
    "relative_attention_num_buckets": 32,
    "tie_word_embeddings": False,
}
"""What the shapes of T5 1.1 do not say."""
HEAD = 64
"""Width of an attention head in every published size."""


def widths(shapes: Shapes) -> dict[str, Any]:
    """The encoder's configuration from its shapes (names as in Transformers)."""
    blocks = {name.split(".")[2] for name in shapes if name.startswith("encoder.block.")}
    first = "encoder.block.0.layer."
    rows, width = shapes["encoder.block.0.layer.0.SelfAttention.q.weight"]
    return {
        **CONFIG,
        "d_model": width,
        "d_kv": HEAD,
        "num_heads": max(1, rows // HEAD),
        "d_ff": shapes[f"{first}1.DenseReluDense.wi_0.weight"][0],
        "num_layers": len(blocks),
        "vocab_size": shapes.get("shared.weight", shapes.get("encoder.embed_tokens.weight", (0,)))[0],
    }


def convert(state: dict[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """One matrix of words under both of its names: files hold either or both."""
    words = state.get("shared.weight", state.get("encoder.embed_tokens.weight"))
    return {**state, "shared.weight": words, "encoder.embed_tokens.weight": words}


def layout(*prefixes: str) -> Layout:
    return Layout((*prefixes, ""), "layer.0.SelfAttention.q.weight", widths, convert)


def load_tokenizer(folder: Path) -> Any:
    from transformers import T5Tokenizer

    return T5Tokenizer.from_pretrained(str(folder), local_files_only=True)
