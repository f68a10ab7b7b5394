"""CLIP's tokenizer, for bases that come as one file and so without one."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from ._source import Source

LENGTH = 77
"""Tokens in one caption, start and end included."""
END = "<|endoftext|>"
PIECE = LENGTH - 2
"""Tokens of the caption itself."""
_SPLIT = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
"""What CLIP takes for words before it looks for tokens (OpenAI's ``simple_tokenizer``)."""


def merges() -> list[tuple[str, str]]:
    """The 48,894 merges of CLIP's byte-pair encoding, in order (MIT, OpenAI; notice beside the file)."""
    packed = files("lora_scripts.families").joinpath("data", "clip", "merges.txt.gz").read_bytes()
    lines = gzip.decompress(packed).decode("utf-8").splitlines()[1:]
    pairs = [line.split(" ") for line in lines]
    return [(left, right) for left, right in pairs]


def _letters() -> dict[int, str]:
    """Byte -> the printable character that stands for it: itself, or the next one from 256 on (GPT-2)."""
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in own]
    return {byte: chr(byte) for byte in own} | {byte: chr(256 + n) for n, byte in enumerate(others)}


def vocabulary() -> dict[str, int]:
    """The 49,408 tokens: bytes, bytes that end a word, what the merges make, start and end."""
    letters = list(_letters().values())
    tokens = letters + [letter + "</w>" for letter in letters] + [left + right for left, right in merges()]
    tokens += ["<|startoftext|>", END]
    return {token: number for number, token in enumerate(tokens)}


@lru_cache(maxsize=4)
def tokenizer(*, padding: str = END) -> Any:
    """The tokenizer of OpenAI's CLIP. OpenCLIP encoders pad with ``"!"`` instead."""
    from transformers import CLIPTokenizer

    pairs: Any = merges()
    return CLIPTokenizer(vocab=vocabulary(), merges=pairs, model_max_length=LENGTH, pad_token=padding)


def tokenizers(source: Source, paddings: Mapping[str, str]) -> dict[str, Any]:
    """CLIP tokenizers by folder name, from a Diffusers folder, else our own. ``paddings``: folder name ->
    what fills up a caption."""
    if source.kind != "folder":
        return {name: tokenizer(padding=padding) for name, padding in paddings.items()}
    return {name: _read(source.path / name, _state(source.path / name)) for name in paddings}


def _state(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Name, size and time of each file: what says that a folder is as it was."""
    told = ((file.name, file.stat()) for file in sorted(folder.glob("*")))
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in told)


@lru_cache(maxsize=4)
def _read(folder: Path, state: tuple[tuple[str, int, int], ...]) -> Any:
    """A folder's tokenizer. A base is often loaded twice, to compare, and its words take the longest."""
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)


def pieces(tokenizer: Any, caption: str, tokens: int) -> torch.Tensor:
    """Token numbers (1, tokens / 75, 77): each piece with start and end of its own, cut at ``tokens``.

    A piece that nothing is left for is start, end and padding.
    """
    import torch

    found = tokenizer(caption, add_special_tokens=False, verbose=False).input_ids[:tokens]
    start, end, padding = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    rows = []
    for first in range(0, tokens, PIECE):
        part = [start, *found[first : first + PIECE], end]
        rows.append(part + [padding] * (LENGTH - len(part)))
    return torch.tensor([rows], dtype=torch.long)


def cutter(folder: Path | None = None) -> Callable[[str, int], tuple[int, str]]:
    """Caption and limit -> its number of tokens, and the words from the first one behind the limit on.

    With the tokenizer in ``folder`` if it is there, else CLIP's own. Needs neither torch nor Transformers.
    """
    reader = _own_reader() if folder is None else _reader(folder)

    def cut(caption: str, limit: int) -> tuple[int, str]:
        if len(caption.encode("utf-8", "surrogatepass")) <= limit:
            return 0, ""  # a token has a byte at least
        read = reader.encode(caption, add_special_tokens=False)
        if len(read) <= limit:
            return len(read), ""
        return len(read), caption[read.offsets[limit][0] :].strip()

    return cut


@lru_cache(maxsize=1)
def _own_reader() -> Any:
    return _reader(None)


def _reader(folder: Path | None) -> Any:
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    own = folder / "tokenizer.json" if folder else None
    if own is not None and own.is_file():
        reader = Tokenizer.from_file(str(own))
        reader.no_truncation()
        reader.no_padding()
        return reader
    if folder is None or not (folder / "vocab.json").is_file() or not (folder / "merges.txt").is_file():
        numbers, joins = vocabulary(), merges()
    else:
        numbers, joins = models.BPE.read_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    reader = Tokenizer(models.BPE(vocab=numbers, merges=joins, end_of_word_suffix="</w>", unk_token=END))
    reader.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    reader.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    return reader
