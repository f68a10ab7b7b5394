"""Pictures in an order that makes good batches, decoded ahead in threads; few are in memory at any time."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lora_scripts.core.problems import Problem

if TYPE_CHECKING:
    from PIL.Image import Image

LONGEST = 1536
"""Pixels on the longer side that captioners are given: more than any of them looks at."""
_SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations that exchange width and height."""
_CHUNK = 512
RATIO, AREA = 1.25, 2.0
"""How far shapes of one batch may differ."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A picture to be captioned; width and height from its header, 0 where there is none."""

    name: str
    path: Path
    width: int = 0
    height: int = 0


def workers() -> int:
    return min(8, os.cpu_count() or 1)


def _shape(name: str, path: Path) -> Waiting:
    from PIL import Image

    from lora_scripts.data.pixels import FORMATS

    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            turned = image.getexif().get(0x0112, 1) in _SIDEWAYS
    except (
        OSError,
        SyntaxError,
        ValueError,
        ArithmeticError,
        LookupError,
        TypeError,
        Image.DecompressionBombError,
    ):
        return Waiting(name, path)  # what is wrong with it is said when it is decoded
    return Waiting(name, path, height, width) if turned else Waiting(name, path, width, height)


def by_shape(
    pictures: Sequence[tuple[str, Path]], progress: Callable[[int, int], None] | None = None
) -> list[Waiting]:
    """Sorted so that neighbours have the same or a similar shape; reads headers only."""
    found: list[Waiting] = []
    with ThreadPoolExecutor(workers(), thread_name_prefix="shape") as pool:
        for start in range(0, len(pictures), _CHUNK):
            part = pictures[start : start + _CHUNK]
            found += pool.map(lambda item: _shape(*item), part)
            if progress is not None:
                progress(len(found), len(pictures))
    return sorted(found, key=lambda one: (_aspect(one), one.width * one.height, one.name))


def _aspect(one: Waiting) -> float:
    return one.width / one.height if one.height else 0.0


def alike(first: Waiting, other: Waiting) -> bool:
    """Whether two pictures may go into one batch."""
    if not first.height or not other.height:
        return first.height == other.height
    ratio = _aspect(other) / _aspect(first)
    area = (other.width * other.height) / (first.width * first.height)
    return 1 / RATIO <= ratio <= RATIO and 1 / AREA <= area <= AREA


def look(path: Path) -> Image | Problem:
    """The picture as captioners are given it: upright, RGB, not longer than ``LONGEST``; or why not."""
    from PIL.Image import Resampling

    from lora_scripts.data.pixels import BadPicture, open_picture

    try:
        image, _ = open_picture(path)
    except BadPicture as bad:
        return bad.problem
    if max(image.size) > LONGEST:
        image.thumbnail((LONGEST, LONGEST), Resampling.LANCZOS, reducing_gap=2.0)
    return image


def decoded(
    pictures: Iterable[Waiting], ahead: Callable[[], int], decode: Callable[[Path], Image | Problem] = look
) -> Iterator[tuple[Waiting, Image | Problem]]:
    """Each picture in order, decoded; never more than ``ahead()`` that have not been asked for."""
    pool = ThreadPoolExecutor(workers(), thread_name_prefix="decode")
    queue: deque[tuple[Waiting, Future[Image | Problem]]] = deque()
    rest = iter(pictures)
    try:
        while True:
            while len(queue) < ahead() and (one := next(rest, None)) is not None:
                queue.append((one, pool.submit(decode, one.path)))
            if not queue:
                return
            first, future = queue.popleft()
            yield first, future.result()
    finally:
        # Ctrl-C waits for the pictures in hand and not for those that are queued.
        pool.shutdown(cancel_futures=True)
