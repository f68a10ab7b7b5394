"""Tokenizers that the program does not bring along: where they lie, and counting with them before torch or
Transformers are imported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

FILES = ("tokenizer.json", "spiece.model")


def tokenizer_folder(name: str, given: Path | None, places: list[Path]) -> Path | None:
    """The folder of the tokenizer ``name``: ``given``, else in or beside one of the ``places`` that the
    base's parts come from. None where there is none."""
    around = [near for place in places for near in (place / name, place, place.parent / name)]
    looked = [given] if given else around
    return next((folder for folder in looked if any((folder / file).is_file() for file in FILES)), None)


def counter(folder: Path | None, around: int) -> Callable[[str], int]:
    """Caption -> its number of tokens and the ``around`` that stand with them; none without a tokenizer,
    about one for four bytes without ``tokenizer.json``."""
    if folder is None:
        return lambda caption: 0
    if not (folder / FILES[0]).is_file():
        return lambda caption: len(caption.encode("utf-8", "surrogatepass")) // 4 + around
    reader = _reader(folder)
    return lambda caption: len(reader.encode(caption, add_special_tokens=False)) + around


def _reader(folder: Path) -> Any:
    from tokenizers import Tokenizer

    reader = Tokenizer.from_file(str(folder / FILES[0]))
    reader.no_truncation()
    reader.no_padding()
    return reader


def cutter(folder: Path | None, tokens: int) -> Callable[[str, int], tuple[int, str]]:
    """Caption -> its number of tokens, and the words from the first one on that the encoder does not read:
    it reads ``tokens`` of them. Without torch or Transformers; without ``tokenizer.json`` nothing is
    counted."""
    if folder is None or not (folder / FILES[0]).is_file():
        return lambda caption, limit: (0, "")
    reader = _reader(folder)

    def cut(caption: str, limit: int) -> tuple[int, str]:
        if len(caption.encode("utf-8", "surrogatepass")) <= tokens:
            return 0, ""
        read = reader.encode(caption, add_special_tokens=False)
        if len(read) <= tokens:
            return len(read), ""
        return len(read), caption[read.offsets[tokens][0] :].strip()

    return cut
