"""From the plan's windows to batches of tensors: which examples, with which noise, in which order."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lora_scripts.core.problems import Problem
from lora_scripts.core.seeds import derive_seed
from lora_scripts.data.plan import MicroBatch, Plan, shuffled, split
from lora_scripts.data.plan import Window as PlannedWindow
from lora_scripts.families._base import Draw

from .failures import UnreadableError
from .processes import Group

if TYPE_CHECKING:
    from lora_scripts.families._base import Batch, Model

    from .task import Examples


NAMED = 8
PAUSE = 1.0
"""Seconds after which what could not be read is tried once more."""


@dataclass(frozen=True)
class Window:
    """This process's micro-batches of one optimizer step, each with its ``number`` in the whole window;
    ``indices``: which examples the whole window holds."""

    epoch: int
    batches: tuple[Batch, ...]
    indices: tuple[tuple[int, ...], ...]
    numbers: tuple[int, ...]

    @property
    def examples(self) -> int:
        return sum(len(indices) for indices in self.indices)


class Batches:
    """The n-th window of a run is a function of (plan, seed, n): a resume only needs n.

    ``micro_batch``: examples that memory holds at once, where that is fewer than the plan's. ``restarts``:
    the steps that the run went back to; from each on, the rest of its epoch comes in another order.
    """

    def __init__(
        self, model: Model, examples: Examples, plan: Plan, seed: int, group: Group | None = None
    ) -> None:
        self.model = model
        self.examples = examples
        self.plan = plan
        self.seed = seed
        self.group = group or Group()
        self.micro_batch: int | None = None
        self.restarts: Sequence[int] = ()

    def planned(self, number: int) -> tuple[int, PlannedWindow]:
        """The epoch and the micro-batches of window ``number``, as all processes together compute them."""
        epoch, window = self.plan.window(self._position(number))
        return epoch, self._cut(window)

    def _cut(self, window: PlannedWindow) -> PlannedWindow:
        """The window in pieces that memory holds, at least as many as there are processes: none is idle."""
        if self.micro_batch is not None:
            window = split(window, self.micro_batch)
        if len(window) >= self.group.size:
            return window
        count = sum(len(micro) for micro in window)
        return split(window, math.ceil(count / self.group.size))

    def _position(self, number: int) -> int:
        """Which of the plan's windows is the run's ``number``-th. Each restart shuffles what was left of its
        epoch, so that every example still comes exactly once in it."""
        length = self.plan.windows_per_epoch
        for count, start in reversed(list(enumerate(self.restarts, 1))):
            if start <= number and number // length == start // length:
                left = length - start % length
                order = shuffled(left, derive_seed(self.plan.seed, "rollback", count))
                number = start + int(order[number - start])
        return number

    def largest(self, number: int) -> int:
        """Examples in the largest micro-batch of a window."""
        return max(len(micro) for micro in self.planned(number)[1])

    def heaviest(self, number: int) -> tuple[Batch, int]:
        """The micro-batch that takes most memory among those of the epoch that window ``number`` is in, and
        how many examples it holds."""
        sizes = self.examples.sizes()
        epoch = number // self.plan.windows_per_epoch
        micro_batches = (micro for window in self.plan.epoch(epoch) for micro in self._cut(window))
        micro = max(micro_batches, key=lambda each: sizes[list(each.indices)].sum())
        return self._batch(epoch, micro), len(micro)

    def _batch(self, epoch: int, micro: MicroBatch) -> Batch:
        keys = [self.examples.key(index) for index in micro.indices]
        draws = [Draw(derive_seed(self.seed, "draw", epoch, key)) for key in keys]
        items = [self.examples.item(index, draw) for index, draw in zip(micro.indices, draws, strict=True)]
        return self.model.family.collate(self.model, items, draws)

    def window(self, number: int) -> Window:
        epoch, micro_batches = self.planned(number)
        mine = self.group.share(micro_batches)
        batches = tuple(self._batch(epoch, micro) for _, micro in mine)
        indices = tuple(micro.indices for micro in micro_batches)
        return Window(epoch, batches, indices, tuple(number for number, _ in mine))

    def names(self, number: int) -> list[str]:
        """What people call the examples of a window."""
        _, micro_batches = self.planned(number)
        return [self.examples.name(index) for micro in micro_batches for index in micro.indices]

    def windows(self, first: int, end: int) -> Iterator[Window]:
        """Windows ``first`` to ``end - 1``, the next one read while the current one is trained on. Raises
        ``UnreadableError`` where a window's examples cannot be read, also when tried again."""
        with ThreadPoolExecutor(1, thread_name_prefix="batches") as reader:
            upcoming = reader.submit(self.window, first) if first < end else None
            for number in range(first, end):
                assert upcoming is not None
                try:
                    window = upcoming.result()
                except OSError:
                    window = self._again(number)
                upcoming = reader.submit(self.window, number + 1) if number + 1 < end else None
                yield window

    def _again(self, number: int) -> Window:
        """A drive in the network may have been away for a moment."""
        time.sleep(PAUSE)
        try:
            return self.window(number)
        except OSError as error:
            told = {"step": number + 1, "reason": error.strerror or str(error)}
            names = ", ".join(self.names(number)[:NAMED])
            raise UnreadableError(Problem("LS3903", {**told, "examples": names})) from error
