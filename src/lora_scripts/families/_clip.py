"""CLIP's tokenizer, for bases that come as one file and so without one."""

from __future__ import annotations

import gzip
from importlib.resources import files
from typing import Any

LENGTH = 77
"""Tokens in one caption, start and end included."""


def merges() -> list[tuple[str, str]]:
    """The 48,894 merges of CLIP's byte-pair encoding, in order (MIT, OpenAI; notice beside the file)."""
    packed = files("lora_scripts.families").joinpath("data", "clip", "merges.txt.gz").read_bytes()
    lines = gzip.decompress(packed).decode("utf-8").splitlines()[1:]
    pairs = [line.split(" ") for line in lines]
    return [(left, right) for left, right in pairs]


def vocabulary() -> dict[str, int]:
    """The 49,408 tokens: bytes, bytes that end a word, what the merges make, start and end."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    tokens = letters + [letter + "</w>" for letter in letters] + [left + right for left, right in merges()]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return {token: number for number, token in enumerate(tokens)}


def tokenizer(*, padding: str = "<|endoftext|>") -> Any:
    """The tokenizer of OpenAI's CLIP. OpenCLIP encoders pad with ``"!"`` instead."""
    from transformers import CLIPTokenizer

    pairs: Any = merges()
    return CLIPTokenizer(vocab=vocabulary(), merges=pairs, model_max_length=LENGTH, pad_token=padding)
