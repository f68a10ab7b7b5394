"""What frozen modules made of each example, computed once, on disk, shared by runs.

A cache is a folder of immutable safetensors shards. A tensor is named ``<content key>/<tensor name>``, so
the shards' own headers are the index, nothing else can disagree with them, and a shard that was being
written when the process died is simply not there. Values are read through the shards' memory maps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lora_scripts.core.files import write_atomic
from lora_scripts.core.problems import ProblemsError
from lora_scripts.export.tensors_file import write_tensors
from lora_scripts.preflight.checks.cache_room import not_written

if TYPE_CHECKING:
    import torch

MIB = 2**20
SHARD_BYTES = 64 * MIB
SHARD_KEYS = 4096
"""Examples in a shard at most: small tensors that wait among large ones keep the heap from shrinking."""
MAX_OPEN_SHARDS = 128


class Place(NamedTuple):
    """A shard, and the names of one example's tensors in it."""

    shard: Path
    names: tuple[str, ...]


class StageCache:
    """One stage's shards under ``folder``. ``get`` after ``add`` and ``flush``; keys are content hashes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._where: dict[str, Place] = {}
        self._open: dict[Path, Any] = {}
        self._pending: dict[str, torch.Tensor] = {}
        self._pending_bytes = self._pending_keys = 0
        for path in sorted(folder.glob("*.safetensors")):
            self._index(path)

    def _index(self, path: Path) -> None:
        from safetensors import SafetensorError

        try:
            names = list(self._shard(path).keys())
        except (OSError, SafetensorError):
            with suppress(OSError):  # our own file, damaged: what it held is computed again
                path.unlink(missing_ok=True)
            return
        found: dict[str, list[str]] = {}
        for name in names:
            key, _, tensor = name.partition("/")
            found.setdefault(key, []).append(tensor)
        places: dict[tuple[str, ...], Place] = {}  # one object for all that lie alike: there may be millions
        for key, tensors in found.items():
            place = places.setdefault(tuple(tensors), Place(path, tuple(tensors)))
            self._where.setdefault(key, place)

    def _shard(self, path: Path) -> Any:
        from safetensors import safe_open

        if path not in self._open:
            if len(self._open) >= MAX_OPEN_SHARDS:
                self._open.pop(next(iter(self._open)))
            self._open[path] = safe_open(path, framework="pt")
        return self._open[path]

    def __contains__(self, key: str) -> bool:
        return key in self._where

    def add(self, key: str, tensors: Mapping[str, torch.Tensor]) -> None:
        """Keeps one example's tensors; a shard is written whenever enough have gathered."""
        for name, tensor in tensors.items():
            value = tensor.detach().cpu().contiguous()
            self._pending[f"{key}/{name}"] = value
            self._pending_bytes += value.numel() * value.element_size()
        self._pending_keys += 1
        if self._pending_bytes >= SHARD_BYTES or self._pending_keys >= SHARD_KEYS:
            self.flush()

    def flush(self) -> None:
        """Writes what has gathered. Raises ProblemsError: LS3021 where the disk has no room for it, LS3952
        where it refuses for another reason."""
        if not self._pending:
            return
        digest = hashlib.sha256("".join(sorted(self._pending)).encode()).hexdigest()[:24]
        path = self.folder / f"{digest}.safetensors"
        pending = self._pending
        try:
            write_atomic(path, lambda handle: write_tensors(handle, pending))
        except OSError as error:
            raise ProblemsError(not_written(self.folder, error, self._pending_bytes)) from error
        self._pending, self._pending_bytes, self._pending_keys = {}, 0, 0
        self._index(path)

    def get(self, key: str) -> dict[str, torch.Tensor]:
        """One example's tensors as they were added. KeyError for a key that is not cached."""
        place = self._where[key]
        shard = self._shard(place.shard)
        return {name: shard.get_tensor(f"{key}/{name}") for name in place.names}
