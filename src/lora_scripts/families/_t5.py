"""T5's encoder as picture models use it: from files in its published layout, and its tokenizer from a folder,
since ours brings none along."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ._single_file import Layout, Shapes

FILES = ("tokenizer.json", "spiece.model")
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


def tokenizer_folder(name: str, given: Path | None, places: list[Path]) -> Path | None:
    """The folder of the tokenizer ``name``: ``given``, else in or beside one of the ``places`` that the
    base's parts come from. None where there is none."""
    around = [near for place in places for near in (place / name, place, place.parent / name)]
    looked = [given] if given else around
    return next((folder for folder in looked if any((folder / file).is_file() for file in FILES)), None)


def load_tokenizer(folder: Path) -> Any:
    from transformers import T5Tokenizer

    return T5Tokenizer.from_pretrained(str(folder), local_files_only=True)


def counter(folder: Path | None) -> Callable[[str], int]:
    """Caption -> its number of tokens, the end mark among them; none without a tokenizer, about one for four
    bytes without ``tokenizer.json``."""
    if folder is None:
        return lambda caption: 0
    if not (folder / FILES[0]).is_file():
        return lambda caption: len(caption.encode("utf-8", "surrogatepass")) // 4 + 1
    reader = _reader(folder)
    return lambda caption: len(reader.encode(caption, add_special_tokens=False)) + 1


def _reader(folder: Path) -> Any:
    from tokenizers import Tokenizer

    reader = Tokenizer.from_file(str(folder / FILES[0]))
    reader.no_truncation()
    reader.no_padding()
    return reader


def cutter(folder: Path | None, tokens: int) -> Callable[[str, int], tuple[int, str]]:
    """Caption -> its number of tokens, and the words from the first one on that the encoder does not read:
    it reads ``tokens``, the end mark among them. Without torch or Transformers; without ``tokenizer.json``
    nothing is counted."""
    if folder is None or not (folder / FILES[0]).is_file():
        return lambda caption, limit: (0, "")
    reader = _reader(folder)

    def cut(caption: str, limit: int) -> tuple[int, str]:
        if len(caption.encode("utf-8", "surrogatepass")) < tokens:
            return 0, ""
        read = reader.encode(caption, add_special_tokens=False)
        if len(read) < tokens:
            return len(read), ""
        return len(read), caption[read.offsets[tokens - 1][0] :].strip()

    return cut
