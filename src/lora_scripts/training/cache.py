"""What frozen modules made of each example, computed once, on disk, shared by runs.

A cache is a folder of immutable safetensors shards. A tensor is named ``<content key>/<tensor name>``, so
the shards' own headers are the index, nothing else can disagree with them, and a shard that was being
written when the process died is simply not there. Values are read through the shards' memory maps; of the
headers only each key and its place are kept.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
from array import array
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lora_scripts.core.files import write_atomic
from lora_scripts.core.problems import ProblemsError
from lora_scripts.data.columns import Known
from lora_scripts.export.tensors_file import NAMES, raw, write_tensors
from lora_scripts.preflight.checks.cache_room import not_written

if TYPE_CHECKING:
    import torch

MIB = 2**20
SHARD_BYTES = 64 * MIB
SHARD_KEYS = 4096
"""Examples in a shard at most."""
MAX_OPEN_SHARDS = 128
_TYPES = {kind: name for name, kind in NAMES.items()}


class Part(NamedTuple):
    """A tensor of an example: ``offset`` in bytes from the first of the example's tensors."""

    name: str
    kind: str
    shape: tuple[int, ...]
    offset: int


class Pending:
    """Tensors that wait for their shard, in one buffer: small ones that lie among the heap's other objects
    would keep it from shrinking."""

    def __init__(self) -> None:
        self.values = bytearray()
        self.names: list[tuple[str, torch.dtype, tuple[int, ...], int]] = []
        self.keys = 0

    def add(self, name: str, tensor: torch.Tensor) -> None:
        value = tensor.detach().cpu().contiguous()
        self.values += bytes(-len(self.values) % 8)  # every type is aligned
        self.names.append((name, value.dtype, tuple(value.shape), len(self.values)))
        self.values += raw(value)

    def tensors(self) -> dict[str, torch.Tensor]:
        return {name: _tensor(self.values, kind, shape, at) for name, kind, shape, at in self.names}


class StageCache:
    """One stage's shards under ``folder``. ``get`` after ``add`` and ``flush``; keys are content hashes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._keys = Known()
        self._shards: list[Path] = []
        self._layouts: list[tuple[Part, ...]] = []
        self._shard, self._layout, self._offset = array("i"), array("i"), array("q")
        """Of each key: its shard, its tensors and where in the file they begin."""
        self._open: dict[int, mmap.mmap] = {}
        self._pending = Pending()
        for path in sorted(folder.glob("*.safetensors")):
            self._index(path)

    def _index(self, path: Path) -> None:
        try:
            tensors = _header(path)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            with suppress(OSError):  # our own file, damaged: what it held is computed again
                path.unlink(missing_ok=True)
            return
        found: dict[str, list[Part]] = {}
        for name, part in tensors.items():
            key, _, tensor = name.partition("/")
            found.setdefault(key, []).append(part._replace(name=tensor))
        self._shards.append(path)
        known = {layout: number for number, layout in enumerate(self._layouts)}
        for key, parts in found.items():
            if self._keys.add(key) < len(self._shard):
                continue  # another shard holds it too
            start = min(part.offset for part in parts)
            layout = tuple(part._replace(offset=part.offset - start) for part in parts)
            if layout not in known:
                known[layout] = len(self._layouts)
                self._layouts.append(layout)
            self._shard.append(len(self._shards) - 1)
            self._layout.append(known[layout])
            self._offset.append(start)

    def _mapped(self, shard: int) -> mmap.mmap:
        if shard not in self._open:
            if len(self._open) >= MAX_OPEN_SHARDS:
                self._open.pop(next(iter(self._open)))
            with open(self._shards[shard], "rb") as handle:
                # a copy of one's own: tensors can be written to, and the file cannot
                self._open[shard] = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_COPY)
        return self._open[shard]

    def __contains__(self, key: str) -> bool:
        return key in self._keys

    def add(self, key: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """Keeps one example's tensors; a shard is written whenever enough have gathered."""
        for name, tensor in tensors.items():
            self._pending.add(f"{key}/{name}", tensor)
        self._pending.keys += 1
        if len(self._pending.values) >= SHARD_BYTES or self._pending.keys >= SHARD_KEYS:
            self.flush()

    def flush(self) -> None:
        """Writes what has gathered. Raises ProblemsError: LS3021 where the disk has no room for it, LS3952
        where it refuses for another reason."""
        if not self._pending.names:
            return
        tensors = self._pending.tensors()
        digest = hashlib.sha256("".join(sorted(tensors)).encode()).hexdigest()[:24]
        path = self.folder / f"{digest}.safetensors"
        try:
            write_atomic(path, lambda handle: write_tensors(handle, tensors))
        except OSError as error:
            raise ProblemsError(not_written(self.folder, error, len(self._pending.values))) from error
        self._pending = Pending()
        self._index(path)

    def get(self, key: str) -> dict[str, torch.Tensor]:
        """One example's tensors as they were added. KeyError for a key that is not cached."""
        import torch

        number = self._keys.get(key)
        if number is None:
            raise KeyError(key)
        values, start = self._mapped(self._shard[number]), self._offset[number]
        return {
            part.name: _tensor(values, getattr(torch, _TYPES[part.kind]), part.shape, start + part.offset)
            for part in self._layouts[self._layout[number]]
        }


def _header(path: Path) -> dict[str, Part]:
    """Name of each tensor of a shard -> what it is, with its offset in the file. ValueError where the file is
    not as long as it says."""
    size = path.stat().st_size
    with open(path, "rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        if 8 + length > size:
            raise ValueError(path)
        table: dict[str, Any] = json.loads(handle.read(length))
    table.pop("__metadata__", None)
    start = 8 + length
    if max((entry["data_offsets"][1] for entry in table.values()), default=0) != size - start:
        raise ValueError(path)
    return {
        name: Part(name, entry["dtype"], tuple(entry["shape"]), start + entry["data_offsets"][0])
        for name, entry in table.items()
    }


def _tensor(
    values: bytearray | mmap.mmap, kind: torch.dtype, shape: tuple[int, ...], offset: int
) -> torch.Tensor:
    """The tensor at ``offset`` of ``values``, which it shares."""
    import torch

    count = math.prod(shape)
    if not count:  # frombuffer takes no empty ones
        return torch.empty(shape, dtype=kind)
    return torch.frombuffer(values, dtype=kind, count=count, offset=offset).reshape(shape)
