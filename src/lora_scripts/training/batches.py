"""From the plan's windows to batches of tensors: which examples, with which noise, in which order."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lora_scripts.core.seeds import derive_seed
from lora_scripts.data.plan import Plan, split
from lora_scripts.data.plan import Window as PlannedWindow
from lora_scripts.families._base import Draw

from .processes import Group

if TYPE_CHECKING:
    from lora_scripts.families._base import Batch, Model

    from .task import Examples


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
    """The n-th window of a run is a function of (plan, seed, n): a resume only needs n."""

    def __init__(
        self, model: Model, examples: Examples, plan: Plan, seed: int, group: Group | None = None
    ) -> None:
        self.model = model
        self.examples = examples
        self.plan = plan
        self.seed = seed
        self.group = group or Group()

    def window(self, number: int) -> Window:
        epoch, micro_batches = self.plan.window(number)
        micro_batches = self._enough(micro_batches)
        batches = []
        mine = self.group.share(micro_batches)
        for _, micro in mine:
            draws = [
                Draw(derive_seed(self.seed, "draw", epoch, self.examples.key(index)))
                for index in micro.indices
            ]
            items = [
                self.examples.item(index, draw) for index, draw in zip(micro.indices, draws, strict=True)
            ]
            batches.append(self.model.family.collate(self.model, items, draws))
        indices = tuple(micro.indices for micro in micro_batches)
        return Window(epoch, tuple(batches), indices, tuple(number for number, _ in mine))

    def _enough(self, window: PlannedWindow) -> PlannedWindow:
        """The window in at least as many pieces as there are processes, so that none is idle."""
        if len(window) >= self.group.size:
            return window
        count = sum(len(micro) for micro in window)
        return split(window, math.ceil(count / self.group.size))

    def names(self, number: int, most: int) -> list[str]:
        """What people call the first ``most`` examples of a window."""
        _, micro_batches = self.plan.window(number)
        indices = [index for micro in micro_batches for index in micro.indices]
        return [self.examples.name(index) for index in indices[:most]]

    def windows(self, first: int, end: int) -> Iterator[Window]:
        """Windows ``first`` to ``end - 1``, the next one read while the current one is trained on."""
        with ThreadPoolExecutor(1, thread_name_prefix="batches") as reader:
            upcoming = reader.submit(self.window, first) if first < end else None
            for number in range(first, end):
                assert upcoming is not None
                window = upcoming.result()
                upcoming = reader.submit(self.window, number + 1) if number + 1 < end else None
                yield window
