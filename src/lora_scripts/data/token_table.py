"""Rows of tokens in one Arrow file: written as a stream, read through a memory map, addressed by number.

A million rows cost a few arrays of numbers and no Python objects; a row's tokens are views into the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from ..core.files import write_atomic
from ..core.problems import Location

VERSION = 1
BATCH_ROWS, BATCH_TOKENS = 8192, 1 << 20
"""A record batch ends at the first of the two: what is in memory while a table is written."""
KEY_BYTES = 16
_META = b"lora_scripts"
_SCHEMA = pa.schema(
    [
        pa.field("ids", pa.large_list(pa.int32())),
        pa.field("targets", pa.large_list(pa.uint8())),
        pa.field("rejected_ids", pa.large_list(pa.int32())),
        pa.field("rejected_targets", pa.large_list(pa.uint8())),
        pa.field("key", pa.binary(KEY_BYTES)),
        pa.field("length", pa.int32()),
        pa.field("loss_tokens", pa.int32()),
        pa.field("file", pa.int32()),
        pa.field("line", pa.int32()),
        pa.field("flags", pa.int32()),
    ]
)


class DamagedTableError(Exception):
    """The file is no whole table of this version: it has to be written anew."""


@dataclass(frozen=True, eq=False)
class TokenRow:
    """One sequence, or with ``rejected_ids`` a preference pair whose chosen answer is in ``ids``.

    ``ids`` (T,) int32; ``targets`` (T,) bool, the tokens that are learnt; ``key``: hex, of the content alone,
    found by ``write_table`` where it is empty; ``file`` and ``line``: where it came from, the file as a
    position in the table's ``files``; ``flags``: the writer's own notes as bits.
    """

    ids: np.ndarray
    targets: np.ndarray
    key: str = ""
    file: int = 0
    line: int = 0
    rejected_ids: np.ndarray | None = None
    rejected_targets: np.ndarray | None = None
    flags: int = 0


def content_key(row: TokenRow) -> bytes:
    """BLAKE2b, 16 bytes, of what is learnt: tokens and targets, both answers of a pair, and nothing else."""
    digest = hashlib.blake2b(digest_size=KEY_BYTES)
    for ids, targets in _sequences(row):
        digest.update(len(ids).to_bytes(8, "little"))
        digest.update(np.ascontiguousarray(ids, dtype="<i4").data)
        digest.update(np.ascontiguousarray(targets, dtype=np.bool_).data)
    return digest.digest()


def _sequences(row: TokenRow) -> list[tuple[np.ndarray, np.ndarray]]:
    first = [(row.ids, row.targets)]
    if row.rejected_ids is None or row.rejected_targets is None:
        return first
    return [*first, (row.rejected_ids, row.rejected_targets)]


def write_table(path: Path, rows: Iterable[TokenRow], meta: Mapping[str, Any]) -> int:
    """Writes ``rows`` as they come and gives their number. The file is whole or absent.

    ``meta`` is ready for JSON and holds ``files``, the paths that ``TokenRow.file`` counts in. It is read
    after the last row, so that what is counted on the way may be in it. Raises whatever ``rows`` raises,
    ValueError for a row whose ids and targets differ in length, OSError where the disk refuses.
    """
    written = 0

    def write(handle: BinaryIO) -> None:
        nonlocal written
        with pa.ipc.new_file(handle, _SCHEMA) as writer:
            batch = _Batch()
            for row in rows:
                batch.add(row)
                written += 1
                if batch.full:
                    writer.write_batch(batch.arrow())
                    batch = _Batch()
            if len(batch):
                writer.write_batch(batch.arrow())
            about = json.dumps({"version": VERSION, "rows": written, "meta": dict(meta)}, ensure_ascii=False)
            # The schema goes out before the first row; only a batch of its own can carry what comes after.
            writer.write_batch(_Batch().arrow(), custom_metadata={_META: about.encode()})

    write_atomic(path, write)
    return written


class _Batch:
    """Rows on their way into the file, as arrays."""

    def __init__(self) -> None:
        self.lists: dict[str, list[np.ndarray | None]] = {name: [] for name in _SCHEMA.names[:4]}
        self.keys: list[bytes] = []
        self.numbers: list[tuple[int, ...]] = []
        self.tokens = 0

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def full(self) -> bool:
        return len(self) >= BATCH_ROWS or self.tokens >= BATCH_TOKENS

    def add(self, row: TokenRow) -> None:
        sequences = _sequences(row)
        if any(len(ids) != len(targets) for ids, targets in sequences):
            raise ValueError("ids and targets differ in length")
        lengths = [len(ids) for ids, _ in sequences]
        # A sequence's first token has nothing before it that could predict it.
        learnt = sum(int(np.count_nonzero(targets[1:])) for _, targets in sequences)
        self.lists["ids"].append(row.ids)
        self.lists["targets"].append(row.targets)
        self.lists["rejected_ids"].append(row.rejected_ids)
        self.lists["rejected_targets"].append(row.rejected_targets)
        self.keys.append(bytes.fromhex(row.key) if row.key else content_key(row))
        self.numbers.append((max(lengths), learnt, row.file, row.line, row.flags))
        self.tokens += sum(lengths)

    def arrow(self) -> pa.RecordBatch:
        columns = [
            _list_array(self.lists[name], np.int32 if name.endswith("ids") else np.uint8)
            for name in _SCHEMA.names[:4]
        ]
        columns.append(pa.array(self.keys, pa.binary(KEY_BYTES)))
        numbers = np.array(self.numbers, dtype=np.int32).reshape(len(self), 5)
        columns += [pa.array(np.ascontiguousarray(numbers[:, column])) for column in range(5)]
        return pa.RecordBatch.from_arrays(columns, schema=_SCHEMA)


def _list_array(values: Sequence[np.ndarray | None], dtype: type[np.generic]) -> pa.Array:
    lengths = [0 if value is None else len(value) for value in values]
    offsets = np.zeros(len(values) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    present = [np.asarray(value).astype(dtype, copy=False) for value in values if value is not None]
    flat = np.concatenate(present) if present else np.zeros(0, dtype)
    mask = pa.array([value is None for value in values], pa.bool_())
    return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(flat), mask=mask)


@dataclass(frozen=True)
class _Columns:
    """One record batch as views: flat values and the offsets of its rows."""

    values: tuple[np.ndarray, ...]
    offsets: tuple[np.ndarray, ...]
    pairs: np.ndarray

    def part(self, column: int, row: int) -> np.ndarray:
        offsets = self.offsets[column]
        part: np.ndarray = self.values[column][offsets[row] : offsets[row + 1]]
        return part


class TokenTable:
    """A table that ``write_table`` wrote. ``meta``: what the writer said about it; ``files``: its sources."""

    def __init__(self, reader: pa.RecordBatchFileReader, meta: Mapping[str, Any], path: Path) -> None:
        self._reader = reader
        self._batches = reader.num_record_batches - 1
        self._open: dict[int, _Columns] = {}
        self.path = path
        self.meta = meta
        self.files: Sequence[str] = tuple(meta["files"])
        counts = [reader.get_batch(number).num_rows for number in range(self._batches)]
        self._starts = np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))
        self.lengths = self._numbers("length")
        """(n,) int32: tokens of each row; of a pair, of the longer answer with its prompt."""
        self.loss_tokens = self._numbers("loss_tokens")
        """(n,) int32: tokens that are predicted and learnt, of both answers of a pair."""
        self.file_numbers = self._numbers("file")
        """(n,) int32: positions in ``files``."""
        self.lines = self._numbers("line")
        self.flags = self._numbers("flags")
        self._raw_keys = self._key_bytes()

    @classmethod
    def open(cls, path: Path, files: Sequence[str] | None = None) -> TokenTable:
        """``files``: where the sources lie now, in the writer's order, if they were moved since.

        Raises DamagedTableError for anything that is no whole table, FileNotFoundError where there is none.
        """
        if not path.is_file():
            raise FileNotFoundError(path)
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(path)))
            last = reader.get_batch_with_custom_metadata(reader.num_record_batches - 1)
            about = json.loads(last.custom_metadata[_META])
            if about["version"] != VERSION or not reader.schema.equals(_SCHEMA):
                raise DamagedTableError(path)
            table = cls(reader, about["meta"], path)
        except (pa.ArrowException, OSError, ValueError, LookupError, TypeError) as error:
            raise DamagedTableError(path) from error
        if len(table) != about["rows"]:
            raise DamagedTableError(path)
        if files is not None:
            table.files = tuple(files)
        return table

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def keys(self) -> np.ndarray:
        """(n,) ``S32``: content keys in hex, which NumPy sorts, counts and compares."""
        digits = np.frombuffer(b"0123456789abcdef", dtype=np.uint8)
        raw = self._raw_keys
        text = np.empty((len(raw), 2 * KEY_BYTES), dtype=np.uint8)
        text[:, ::2], text[:, 1::2] = digits[raw >> 4], digits[raw & 15]
        return text.view(f"S{2 * KEY_BYTES}").reshape(-1)

    @property
    def pairs(self) -> int:
        """How many rows are preference pairs."""
        return sum(int(np.count_nonzero(self._columns(n).pairs)) for n in range(self._batches))

    def place(self, number: int) -> Location:
        return Location(self.files[int(self.file_numbers[number])], int(self.lines[number]))

    def row(self, number: int) -> TokenRow:
        """Row ``number`` (from 0) as read-only views into the file. Raises IndexError."""
        if not 0 <= number < len(self):
            raise IndexError(number)
        batch = int(np.searchsorted(self._starts, number, side="right")) - 1
        columns, inside = self._columns(batch), number - int(self._starts[batch])
        pair = bool(columns.pairs[inside])
        return TokenRow(
            ids=columns.part(0, inside),
            targets=columns.part(1, inside),
            key=self._raw_keys[number].tobytes().hex(),
            file=int(self.file_numbers[number]),
            line=int(self.lines[number]),
            rejected_ids=columns.part(2, inside) if pair else None,
            rejected_targets=columns.part(3, inside) if pair else None,
            flags=int(self.flags[number]),
        )

    def _columns(self, batch: int) -> _Columns:
        if batch not in self._open:
            lists = [self._reader.get_batch(batch).column(index) for index in range(4)]
            values = [column.values.to_numpy(zero_copy_only=True) for column in lists]
            values[1], values[3] = values[1].view(np.bool_), values[3].view(np.bool_)
            self._open[batch] = _Columns(
                tuple(values),
                tuple(column.offsets.to_numpy(zero_copy_only=True) for column in lists),
                lists[2].is_valid().to_numpy(zero_copy_only=False),
            )
        return self._open[batch]

    def _numbers(self, name: str) -> np.ndarray:
        index = _SCHEMA.get_field_index(name)
        parts = [self._reader.get_batch(n).column(index).to_numpy() for n in range(self._batches)]
        return np.concatenate(parts) if parts else np.zeros(0, np.int32)

    def _key_bytes(self) -> np.ndarray:
        index = _SCHEMA.get_field_index("key")
        parts = []
        for number in range(self._batches):
            column = self._reader.get_batch(number).column(index)
            flat = np.frombuffer(column.buffers()[1], dtype=np.uint8)
            parts.append(flat[: len(column) * KEY_BYTES].reshape(-1, KEY_BYTES))
        return np.concatenate(parts) if parts else np.zeros((0, KEY_BYTES), np.uint8)
