"""Whether a GGUF file's head can be true, before a library follows it.

The library's reader takes every count as it is told: a file of some bytes that claims 2^60 entries keeps it
busy for ever. Layout: ggml's ``docs/gguf.md``.
"""

from __future__ import annotations

import math
import mmap
from pathlib import Path

MAGIC, VERSIONS = b"GGUF", (2, 3)
STRING, ARRAY = 8, 9
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a plain value by its type's number."""
DEEPEST, MOST_AXES = 2, 8
SMALLEST_ENTRY, SMALLEST_TENSOR = 13, 32
"""Bytes of the shortest entry (a name of no letters and one byte) and of the shortest tensor's."""


class _Head:
    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.at = data, 0

    def skip(self, count: int) -> None:
        if count > len(self.data) - self.at:
            raise ValueError("its head speaks of more than the file holds")
        self.at += count

    def number(self, size: int) -> int:
        start = self.at
        self.skip(size)
        return int.from_bytes(self.data[start : self.at], "little")

    def count(self, smallest: int) -> int:
        """How many things follow, each of ``smallest`` bytes at least."""
        count = self.number(8)
        if count * smallest > len(self.data) - self.at:
            raise ValueError("its head speaks of more than the file holds")
        return count

    def text(self) -> None:
        self.skip(self.number(8))

    def value(self, kind: int, depth: int = 0) -> None:
        if kind in SIZES:
            self.skip(SIZES[kind])
        elif kind == STRING:
            self.text()
        elif kind == ARRAY and depth < DEEPEST:
            inner = self.number(4)
            count = self.count(SIZES.get(inner, 8))
            if inner in SIZES:
                self.skip(count * SIZES[inner])
                return
            for _ in range(count):
                self.value(inner, depth + 1)
        else:
            raise ValueError(f"an entry of an unknown kind ({kind})")


def check_bounds(path: Path) -> None:
    """Raises ValueError, in English, for a head that cannot be true, OSError for an unreadable file."""
    with open(path, "rb") as handle:
        if path.stat().st_size < 24:
            raise ValueError("it is shorter than any GGUF file")
        with mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
            _check(_Head(data))


def _check(head: _Head) -> None:
    head.skip(4)
    if head.data[:4] != MAGIC or head.number(4) not in VERSIONS:
        raise ValueError("it is no GGUF file of version 2 or 3")
    tensors, entries = head.count(SMALLEST_TENSOR), head.count(SMALLEST_ENTRY)
    for _ in range(entries):
        head.text()
        head.value(head.number(4))
    for _ in range(tensors):
        head.text()
        axes = head.number(4)
        if axes > MOST_AXES:
            raise ValueError("a tensor of more axes than there are")
        shape = [head.number(8) for _ in range(axes)]
        head.skip(4)  # its kind
        offset = head.number(8)
        # no kind of storage takes less than a bit for a number
        if math.prod(shape) // 8 > len(head.data) or offset > len(head.data):
            raise ValueError("a tensor that is larger than the file")
