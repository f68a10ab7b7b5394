"""Which examples each optimizer step sees: windows of one global batch, cut into micro-batches of one shape.

In every epoch every example comes exactly once. The examples of each group (a shape) are shuffled and cut
into chunks of ``batch_size``; the full chunks are shuffled and fill windows of ``batch_size * accumulation``;
what is left over of the groups shares the remaining windows; these are shuffled in, and only the last window
of an epoch may be smaller. A window depends on (groups, batch_size, accumulation, seed, epoch) and on nothing
else: not on the number of processes, the machine, or what was asked before.

Another ``batch_size`` with the same product keeps the number and the weights of the windows and, per epoch,
the examples; it groups them differently. To go on in smaller pieces within the same windows, use ``split``.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import overload

import numpy as np

from ..core.seeds import derive_seed


@dataclass(frozen=True)
class MicroBatch:
    """Positions of examples of one group, at most ``batch_size`` of them, computed together."""

    indices: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.indices)


Window = tuple[MicroBatch, ...]


def shuffled(count: int, seed: int) -> np.ndarray:
    """A permutation of ``range(count)``, from PCG64's raw stream: NumPy keeps that stable over versions and
    promises no such thing for ``Generator.permutation``."""
    return np.argsort(np.random.PCG64(seed).random_raw(count), kind="stable")


def split(window: Window, size: int) -> Window:
    """The same window in micro-batches of at most ``size``."""
    return tuple(
        MicroBatch(batch.indices[start : start + size])
        for batch in window
        for start in range(0, len(batch), size)
    )


class Epoch(Sequence[Window]):
    """The windows of one epoch; one is made when it is asked for.

    ``positions``: all examples, chunk after chunk; ``chunks``, (c + 1,) where each begins and the last ends;
    ``starts``, (w + 1,) the chunks with which each window begins.
    """

    def __init__(self, positions: np.ndarray, chunks: np.ndarray, starts: np.ndarray) -> None:
        self.positions, self.chunks, self.starts = positions, chunks, starts

    def __len__(self) -> int:
        return len(self.starts) - 1

    @overload
    def __getitem__(self, number: int) -> Window: ...

    @overload
    def __getitem__(self, number: slice) -> list[Window]: ...

    def __getitem__(self, number: int | slice) -> Window | list[Window]:
        if isinstance(number, slice):
            return [self[each] for each in range(*number.indices(len(self)))]
        number = range(len(self))[number]
        edges = self.chunks[self.starts[number] : self.starts[number + 1] + 1].tolist()
        return tuple(MicroBatch(tuple(self.positions[a:b].tolist())) for a, b in pairwise(edges))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Epoch) and all(
            np.array_equal(mine, theirs)
            for mine, theirs in zip(vars(self).values(), vars(other).values(), strict=True)
        )

    __hash__ = None  # type: ignore[assignment]


class Plan:
    """The windows of a run over ``groups[i]``, the group of example i. Only one epoch is held at a time."""

    def __init__(
        self,
        groups: Sequence[Hashable] | np.ndarray,
        batch_size: int,
        accumulation: int = 1,
        seed: int = 0,
    ) -> None:
        if batch_size < 1 or accumulation < 1:
            raise ValueError("batch_size and accumulation count from one")
        self.batch_size, self.accumulation, self.seed = batch_size, accumulation, seed
        self.window_size = batch_size * accumulation
        self.count = len(groups)
        self.windows_per_epoch = math.ceil(self.count / self.window_size)
        known: dict[Hashable, int] = {}
        numbers = (known.setdefault(group, len(known)) for group in groups)
        self._groups = np.fromiter(numbers, np.int32, self.count)
        members = np.argsort(self._groups, kind="stable").astype(np.int32)
        self._members = np.split(members, np.cumsum(np.bincount(self._groups, minlength=1))[:-1])
        """Positions of each group's examples, groups in the order in which they come."""
        self._epoch: tuple[int, Epoch] | None = None

    def cut(self, batch_size: int, accumulation: int) -> Plan:
        """The plan of the same examples in other micro-batches. Only ``split`` keeps the windows."""
        if (batch_size, accumulation) == (self.batch_size, self.accumulation):
            return self
        return Plan(self._groups, batch_size, accumulation, self.seed)

    def window(self, number: int) -> tuple[int, Window]:
        """The epoch (from 0) and the micro-batches of the run's window ``number`` (from 0, epochs one after
        another). Raises IndexError where there is nothing to learn."""
        if not self.count or number < 0:
            raise IndexError(number)
        epoch, position = divmod(number, self.windows_per_epoch)
        return epoch, self.epoch(epoch)[position]

    def epoch(self, epoch: int) -> Epoch:
        """All windows of one epoch."""
        held = self._epoch
        if held is None or held[0] != epoch:
            self._epoch = held = (epoch, self._cut(epoch))  # another thread may ask for another epoch
        return held[1]

    def mean_micro_batch(self, epoch: int = 0) -> float:
        """Examples per micro-batch: how well the shapes fill the device; ``batch_size`` at best."""
        batches = len(self.epoch(epoch).chunks) - 1
        return self.count / batches if batches else 0.0

    def _cut(self, epoch: int) -> Epoch:
        full, rest = self._chunks(epoch)
        full = full[shuffled(len(full), derive_seed(self.seed, "plan", epoch, "chunks"))]
        rest = [rest[i] for i in shuffled(len(rest), derive_seed(self.seed, "plan", epoch, "rest"))]
        whole = len(full) // self.accumulation * self.accumulation
        shared = _packed([*full[whole:], *rest], self.window_size)
        last = [shared.pop()] if self.count % self.window_size else []
        windows = full[:whole].reshape(-1, self.window_size)
        order = shuffled(len(windows) + len(shared), derive_seed(self.seed, "plan", epoch, "windows"))
        return self._laid_out(windows, shared, order, last)

    def _chunks(self, epoch: int) -> tuple[np.ndarray, list[np.ndarray]]:
        """Each group shuffled and cut: chunks of ``batch_size``, (chunks, batch_size), and what is left over
        of each group."""
        full: list[np.ndarray] = []
        rest: list[np.ndarray] = []
        for group, indices in enumerate(self._members):
            order = indices[shuffled(len(indices), derive_seed(self.seed, "plan", epoch, "group", group))]
            even = len(order) // self.batch_size * self.batch_size
            full.append(order[:even].reshape(-1, self.batch_size))
            if even < len(order):
                rest.append(order[even:])
        return np.concatenate(full), rest

    def _laid_out(
        self,
        windows: np.ndarray,
        shared: list[list[np.ndarray]],
        order: np.ndarray,
        last: list[list[np.ndarray]],
    ) -> Epoch:
        """``windows`` of full chunks and those ``shared`` by several groups in ``order`` of both, then the
        ``last``."""
        parts: list[np.ndarray] = []
        lengths: list[np.ndarray] = []
        counts: list[np.ndarray] = []

        def add(batch: np.ndarray) -> None:
            """Some of ``windows``, one after another."""
            parts.append(windows[batch].reshape(-1))
            lengths.append(np.full(len(batch) * self.accumulation, self.batch_size))
            counts.append(np.full(len(batch), self.accumulation))

        start = 0
        for place in [*np.flatnonzero(order >= len(windows)), len(order)]:
            add(order[start:place])
            start = place + 1
            for chunks in [shared[order[place] - len(windows)]] if place < len(order) else last:
                parts += chunks
                lengths.append(np.array([len(chunk) for chunk in chunks]))
                counts.append(np.array([len(chunks)]))

        def edges(sizes: list[np.ndarray]) -> np.ndarray:
            return np.cumsum(np.concatenate([np.zeros(1, np.int64), *sizes]))

        positions = np.concatenate(parts).astype(np.int32)
        return Epoch(positions, edges(lengths).astype(np.int32), edges(counts).astype(np.int32))


def _packed(chunks: list[np.ndarray], size: int) -> list[list[np.ndarray]]:
    """Windows of exactly ``size`` examples (the last: what remains) out of chunks of different groups.

    The largest chunk that still fits goes first; where none fits, the smallest is split: at most one split
    per window, so that micro-batches stay large.
    """
    waiting: dict[int, list[np.ndarray]] = {}
    for chunk in reversed(chunks):
        waiting.setdefault(len(chunk), []).append(chunk)
    left = sum(len(chunk) for chunk in chunks)
    windows: list[list[np.ndarray]] = []
    while left:
        window: list[np.ndarray] = []
        room = min(size, left)
        left -= room
        while room:
            fitting = [length for length in waiting if length <= room]
            length = max(fitting) if fitting else min(waiting)
            chunk = waiting[length].pop()
            if not waiting[length]:
                del waiting[length]
            if length > room:
                waiting.setdefault(length - room, []).append(chunk[room:])
                chunk = chunk[:room]
            window.append(chunk)
            room -= len(chunk)
        windows.append(window)
    return windows
