"""The header of a ``.safetensors`` file: names, shapes and metadata without reading a single weight."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_scripts.core.catalogue import say
from lora_scripts.core.problems import Location, Problem, ProblemsError

PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
ZIPS = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
PROTOCOLS = b"\x01\x02\x03\x04\x05"
MAX_HEADER = 100_000_000
"""Bytes; the safetensors library's own limit."""

BYTES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}
"""Bytes of one element by the header's dtype name; the rest (F8_E4M3, F8_E5M2, I8, U8, BOOL) take one."""
BITS = {name: 8 * size for name, size in BYTES.items()} | {
    "C64": 64, "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}  # fmt: skip
"""Every dtype that the safetensors library knows."""


@dataclass(frozen=True)
class Header:
    """``shapes`` and ``dtypes`` by tensor name; ``metadata`` is the file's ``__metadata__``."""

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]
    metadata: Mapping[str, str]
    data_start: int
    size: int


def _stop(code: str, path: Path, **params: object) -> ProblemsError:
    return ProblemsError(Problem(code, {"path": str(path), **params}, where=Location(str(path))))


def refuse_pickle(path: Path) -> None:
    """Raises ProblemsError LS4002, with the command that converts it, for a file whose name is a pickle's."""
    if path.suffix.lower() in PICKLES:
        raise _stop("LS4002", path, suffix=path.suffix, command=convert_command(path))


def convert_command(*paths: Path) -> str:
    """What to type to get ``.safetensors`` of pickles, one line for each."""
    return "; ".join(f'lora-scripts convert "{path}"' for path in paths)


def pickles_in(folder: Path) -> list[Path]:
    """The files of ``folder`` that are named as pickles of weights are; not a trainer's own leftovers."""
    leftovers = ("training_args", "optimizer", "scheduler", "rng_state", "random_states")
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICKLES and path.is_file())
    return [path for path in found if not path.name.startswith(leftovers)]


def is_pickle(start: bytes) -> bool:
    """Whether a file that begins with ``start`` is a pickle, bare or in a zip as ``torch.save`` writes it."""
    if start[4:9] == b"\0\0\0\0{":  # a safetensors length, which may look like a pickle's mark, and a table
        return False
    return start.startswith(ZIPS) or (start[:1] == b"\x80" and start[1:2] in PROTOCOLS and len(start) > 1)


def refuse_other_content(path: Path, start: bytes) -> None:
    """Raises ProblemsError for a file whose first bytes show what it is instead: LS4029 GGUF, else LS4004."""
    if start.startswith(b"GGUF"):
        raise _stop("LS4029", path)
    for magic, kind in (
        (b"version https://git-lfs", "lfs"),
        (b"<!DOCTYPE", "html"),
        (b"<!doctype", "html"),
        (b"<html", "html"),
    ):
        if start.startswith(magic):
            raise _stop("LS4004", path, kind=say(f"model.content.{kind}"))


def read_header(path: Path) -> Header:
    """The header of ``path``, checked against the file's length.

    Raises ProblemsError: LS4002, LS4003 a pickle, LS4029 GGUF, LS4004 something else, LS4005 cut short
    or damaged.
    """
    refuse_pickle(path)
    size = path.stat().st_size
    with open(path, "rb") as handle:
        start = handle.read(64)
        if is_pickle(start):
            raise _stop("LS4003", path, right=path.with_suffix(".ckpt").name)
        refuse_other_content(path, start)
        length = int.from_bytes(start[:8], "little")
        if size < 8 or start[8:9] != b"{" or length > MAX_HEADER:
            raise _stop("LS4004", path, kind=say("model.content.unknown"))
        if 8 + length > size:
            raise _stop("LS4005", path, size=size, expected=8 + length)
        handle.seek(8)
        raw = handle.read(length)
    try:
        table = json.loads(raw, object_pairs_hook=_once)
        metadata = check_table(table)
        shapes = {name: tuple(entry["shape"]) for name, entry in table.items()}
        dtypes = {name: entry["dtype"] for name, entry in table.items()}
        end = max((entry["data_offsets"][1] for entry in table.values()), default=0)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _stop("LS4004", path, kind=say("model.content.unknown")) from error
    if 8 + length + end > size:
        raise _stop("LS4005", path, size=size, expected=8 + length + end)
    if 8 + length + end < size:
        raise _stop("LS4004", path, kind=say("model.content.more"))
    return Header(path, shapes, dtypes, metadata, 8 + length, size)


def check_table(table: Any) -> dict[str, str]:
    """Takes the metadata out of a header and checks the rest as the safetensors library does, so that nothing
    later meets a shape, an offset or a name that cannot be: entries lie end to end from 0, and each is as
    long as its shape says.

    Raises ValueError, KeyError or TypeError.
    """
    metadata = table.pop("__metadata__", None) if isinstance(table, dict) else None
    if metadata is None:
        metadata = {}
    _ensure(isinstance(table, dict) and isinstance(metadata, dict))
    _ensure(all(isinstance(value, str) for value in metadata.values()))
    at = 0
    for entry in sorted(table.values(), key=lambda entry: _pair(entry["data_offsets"])):
        shape, (start, end) = entry["shape"], _pair(entry["data_offsets"])
        _ensure(isinstance(shape, list) and all(map(_is_count, shape)))
        bits = math.prod(shape) * BITS[entry["dtype"]]
        _ensure(start == at and bits == 8 * (end - start))
        at = end
    for text in (*table, *metadata, *metadata.values()):
        text.encode()
    return metadata


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object in which none of a header's own fields stands twice: the library takes no such file."""
    names = [name for name, _ in pairs if name in ("__metadata__", "dtype", "shape", "data_offsets")]
    _ensure(len(names) == len(set(names)))
    return dict(pairs)


def _ensure(holds: bool) -> None:
    if not holds:
        raise ValueError("a header that cannot be")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _pair(value: Any) -> tuple[int, int]:
    _ensure(isinstance(value, list) and len(value) == 2 and all(map(_is_count, value)))
    return value[0], value[1]
