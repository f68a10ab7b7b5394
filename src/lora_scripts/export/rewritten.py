"""A ``.safetensors`` file with some of its tensors changed, in the original's names, order and precision."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from lora_scripts.core.files import write_atomic
from lora_scripts.families._header import BYTES, read_header

from .tensors_file import NAMES, raw

if TYPE_CHECKING:
    import torch
    from torch import Tensor

PIECE = 16 * 2**20
"""Bytes of an untouched tensor that are in memory at a time."""
STALE = ("modelspec.hash_sha256", "sshs_model_hash", "sshs_legacy_hash")
"""Entries of a header that are about the weights' own bytes and would be wrong after a change."""
FLOATS = ("F64", "F32", "F16", "BF16")

Change = Callable[["Tensor"], "Tensor"]
"""A tensor in float32, which may be written to -> what stands in its place, of the same shape."""


@dataclass(frozen=True)
class Entry:
    """One tensor of a file: where its bytes begin and end, counted from the end of the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def count(self) -> int:
        return (self.stop - self.start) // BYTES.get(self.dtype, 1)


def entries(path: Path) -> tuple[list[Entry], dict[str, str], int]:
    """The tensors in the order of their bytes, the metadata, and where the bytes begin.

    Raises ProblemsError LS4003 to LS4005 for what is no whole safetensors file.
    """
    header = read_header(path)
    with open(path, "rb") as handle:
        table = json.loads(handle.read(header.data_start)[8:])
    found = [
        Entry(name, header.dtypes[name], header.shapes[name], *table[name]["data_offsets"])
        for name in header.shapes
    ]
    return (
        sorted(found, key=lambda entry: (entry.start, entry.name)),
        dict(header.metadata),
        header.data_start,
    )


def rewrite(
    source: Path,
    target: Path,
    changes: Mapping[str, Change],
    *,
    metadata: Mapping[str, str] | None = None,
    dtype: torch.dtype | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Writes ``target`` atomically and returns how many tensors were changed.

    All that ``changes`` does not name is copied byte for byte, or cast where a ``dtype`` for floating-point
    tensors is given. Both files are read and written piece by piece: a changed tensor in float32 and what
    its change needs are the most that is in memory. ``metadata`` is added to the original's; hashes of the
    original's bytes go. ``progress(done, total)`` counts tensors. Raises ProblemsError LS4003 to LS4005.
    """
    found, told, start = entries(source)
    wanted = NAMES[str(dtype).removeprefix("torch.")] if dtype is not None else None
    kinds = {e.name: wanted if wanted and e.dtype in FLOATS else e.dtype for e in found}
    if wanted:  # other sizes: wide ones first, so that each stays aligned
        found.sort(key=lambda entry: -BYTES.get(kinds[entry.name], 1))
    kept = {name: value for name, value in told.items() if name not in STALE} | dict(metadata or {})
    table: dict[str, Any] = {"__metadata__": dict(sorted(kept.items()))} if kept else {}
    offset = 0
    for entry in found:
        size = entry.count * BYTES.get(kinds[entry.name], 1)
        table[entry.name] = {
            "dtype": kinds[entry.name], "shape": list(entry.shape), "data_offsets": [offset, offset + size],
        }  # fmt: skip
        offset += size
    text = json.dumps(table, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)

    def write(out: BinaryIO) -> None:
        out.write(len(text).to_bytes(8, "little") + text)
        with open(source, "rb") as handle:
            for number, entry in enumerate(found, start=1):
                handle.seek(start + entry.start)
                change = changes.get(entry.name)
                if change is not None or kinds[entry.name] != entry.dtype:
                    tensor = _tensor(handle, entry)
                    out.write(raw(_changed(tensor, change, kinds[entry.name])))
                else:
                    _copy(handle, out, entry.stop - entry.start)
                if progress:
                    progress(number, len(found))

    write_atomic(target, write)
    return sum(entry.name in changes for entry in found)


class TensorFile:
    """The tensors of a file, read one at a time into memory and mapped nowhere."""

    def __init__(self, path: Path) -> None:
        """ProblemsError LS4003 to LS4005 for what is no whole safetensors file."""
        found, self.metadata, self.start = entries(path)
        self.path = path
        self.entries = {entry.name: entry for entry in found}

    def get(self, name: str) -> Tensor:
        with open(self.path, "rb") as handle:
            handle.seek(self.start + self.entries[name].start)
            return _tensor(handle, self.entries[name])


def _torch(kind: str) -> torch.dtype:
    import torch

    found: torch.dtype = getattr(torch, {own: name for name, own in NAMES.items()}[kind])
    return found


def _tensor(handle: BufferedReader, entry: Entry) -> Tensor:
    import torch

    octets = bytearray(entry.stop - entry.start)
    handle.readinto(octets)
    kind = _torch(entry.dtype)
    flat = torch.frombuffer(octets, dtype=torch.uint8) if octets else torch.empty(0, dtype=torch.uint8)
    return flat.view(kind).reshape(entry.shape)


def _changed(tensor: Tensor, change: Change | None, kind: str) -> Tensor:
    if change is not None:
        tensor = change(tensor.float())
    return tensor.to(_torch(kind))


def _copy(handle: BinaryIO, out: BinaryIO, size: int) -> None:
    while size > 0:
        piece = handle.read(min(size, PIECE))
        out.write(piece)
        size -= len(piece)
