"""Batches of pictures through a captioner: similar shapes together, halved when memory runs out."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from lora_scripts.core.problems import Location, Problem, ProblemsError
from lora_scripts.data.text_files import printable

from ._captioner import Captioner, Words
from .ahead import Waiting, alike, decoded, workers

if TYPE_CHECKING:
    from PIL.Image import Image

Outcome = tuple[Waiting, Words | Problem]
HOPELESS = 3
"""Pictures in a row that a captioner fails on, before it has described any, until the fault is its own."""


def described(
    load: Callable[[], Captioner],
    pictures: Sequence[Waiting],
    size: int | None,
    smaller: Callable[[int], None],
) -> Iterator[list[Outcome]]:
    """What came of each picture, batch by batch; ``smaller`` hears of each new size of batches.

    The captioner is loaded when the first picture is there for it, and closed at the end; ``size``: None for
    what it proposes. Raises ``ProblemsError`` LS3104 where memory does not hold a single picture.
    """
    asks = _Asks(load, size, smaller)
    try:
        yield from _batches(asks, pictures)
    finally:
        asks.close()


def _batches(asks: _Asks, pictures: Sequence[Waiting]) -> Iterator[list[Outcome]]:
    batch: list[tuple[Waiting, Image]] = []
    for one, image in decoded(pictures, lambda: 2 * asks.size + workers()):
        if isinstance(image, Problem):
            yield [(one, image)]
            continue
        if batch and (len(batch) >= asks.size or not alike(batch[0][0], one)):
            yield asks.of(batch)
            batch = []
        asks.open()
        batch.append((one, image))
    if batch:
        yield asks.of(batch)


class _Asks:
    def __init__(
        self, load: Callable[[], Captioner], size: int | None, smaller: Callable[[int], None]
    ) -> None:
        self.load, self.smaller = load, smaller
        self.captioner: Captioner | None = None
        self.asked, self.size = size, size or 1
        self.good = self.failed = 0

    def open(self) -> None:
        if self.captioner is None:
            self.captioner = self.load()
            self.size = self.asked or self.captioner.batch_size

    def close(self) -> None:
        if self.captioner is not None:
            self.captioner.close()

    def of(self, batch: list[tuple[Waiting, Image]]) -> list[Outcome]:
        if len(batch) > self.size:
            found: list[Outcome] = []
            while len(found) < len(batch):  # the size may shrink on the way
                found += self.of(batch[len(found) : len(found) + self.size])
            return found
        said, error = self._try([image for _, image in batch])
        if error is None:
            self.good += len(batch)
            return [(one, words) for (one, _), words in zip(batch, said, strict=True)]
        if _out_of_memory(error):
            if len(batch) == 1:
                params = {"name": printable(batch[0][0].name)}
                raise ProblemsError(Problem("LS3104", params, Location(str(batch[0][0].path)))) from error
            self.size = max(1, len(batch) // 2)
            del error
            _free_memory()
            self.smaller(self.size)
            return self.of(batch)
        if len(batch) > 1:
            return [found for item in batch for found in self.of([item])]
        self.failed += 1
        if not self.good and self.failed >= HOPELESS:
            raise error
        one = batch[0][0]
        reason = printable(str(error) or type(error).__name__, 120)
        return [
            (one, Problem("LS2462", {"name": printable(one.name), "reason": reason}, Location(str(one.path))))
        ]

    def _try(self, images: list[Image]) -> tuple[list[Words], Exception | None]:
        try:
            assert self.captioner is not None
            said = self.captioner.describe(images)
        except (MemoryError, RuntimeError, ValueError, LookupError, TypeError, OSError) as error:
            return [], error.with_traceback(None)  # its frames would hold the memory that is to be freed
        if len(said) != len(images):
            return [], ValueError(f"{len(said)} captions for {len(images)} pictures")
        return said, None


def _out_of_memory(error: Exception) -> bool:
    text = str(error).lower()
    known = type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError)
    return known or "out of memory" in text or "can't allocate memory" in text


def _free_memory() -> None:
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
