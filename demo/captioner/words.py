"""The tokenizer of the captioner: BLIP's kind, with the words of the demo's captions.

Single letters and figures follow, so that a prompt of any words can be spelt.
"""

from __future__ import annotations

import string
from pathlib import Path
from typing import TYPE_CHECKING

from demo.world import COLOURS, GROUNDS, KINDS, PLACES, TIMES, WEATHERS, Scene, Thing, describe

if TYPE_CHECKING:
    import torch
    from transformers import BertTokenizer

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
BEGIN = "[DEC]"
LONGEST = 34
"""Tokens of the longest caption, begin and end included."""


def vocabulary() -> list[str]:
    """Every token; its place is its number."""
    scenes = [
        Scene((Thing(kind, colour, place),), ground, weather, time)
        for kind in KINDS
        for colour in COLOURS
        for place in PLACES
        for ground in GROUNDS
        for weather in WEATHERS
        for time in TIMES
    ]
    said = sorted({word for scene in scenes for word in describe(scene).replace(",", " ,").split()})
    signs = [*string.ascii_lowercase, *string.digits]
    single = [sign for sign in signs if sign not in said]
    return [*SPECIAL, *said, *single, *(f"##{sign}" for sign in signs), BEGIN]


def write_tokenizer(folder: Path) -> BertTokenizer:
    """Write and return the tokenizer; its begin token is BLIP's [DEC]."""
    from transformers import BertTokenizer

    tokens = {token: number for number, token in enumerate(vocabulary())}
    made = BertTokenizer(vocab=tokens, bos_token=BEGIN, model_max_length=512)
    made.save_pretrained(folder)
    return made


def encode(tokenizer: BertTokenizer, scenes: list[Scene]) -> torch.Tensor:
    """Captions in the plain wording, as (n, LONGEST): begin, words, [SEP], then padding."""
    import torch

    rows = torch.zeros(len(scenes), LONGEST, dtype=torch.long)
    for row, ids in zip(rows, tokenizer([describe(scene) for scene in scenes])["input_ids"], strict=True):
        row[: len(ids)] = torch.tensor(ids)
    rows[:, 0] = tokenizer.bos_token_id
    return rows
