"""Shapes to train in: a picture goes into the one of at most ``resolution``² pixels that crops it least."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import overload

import numpy as np
from PIL import Image

MAX_RATIO = 4
"""Longest side over shortest: wider panoramas are cropped to this, since models know nothing wider."""


@dataclass(frozen=True, order=True)
class Bucket:
    """A shape in pixels; both sides are multiples of the step it was made for."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


@dataclass(frozen=True)
class Placement:
    """How a picture comes into its bucket: scaled to ``resize`` (w, h), then cut at ``crop`` (left, top)."""

    bucket: Bucket
    resize: tuple[int, int]
    crop: tuple[int, int]

    @property
    def lost(self) -> float:
        """Share of the picture's area that the crop leaves out, 0 to 1."""
        return 1 - (self.bucket.width * self.bucket.height) / (self.resize[0] * self.resize[1])

    @property
    def spare(self) -> tuple[int, int]:
        """How far the cut can move, across and down."""
        return self.resize[0] - self.bucket.width, self.resize[1] - self.bucket.height


def grain(resolution: int, step: int) -> int:
    """Pixels between neighbouring shapes: finer ones would crop less, but leave too few pictures in each."""
    return max(step, min(64, resolution // 8) // step * step)


@lru_cache
def buckets(resolution: int, step: int) -> tuple[Bucket, ...]:
    """All shapes of at most ``resolution``² pixels, up to ``MAX_RATIO``, each with its turned twin.

    ``step`` is what both sides must be multiples of. The square is always there; where ``resolution`` is no
    multiple of ``step``, it is rounded down, and to one ``step`` at least.
    """
    unit = grain(resolution, step)
    side = max(step, resolution // step * step)
    found = {Bucket(side, side)}
    for width in range(unit, side * MAX_RATIO + 1, unit):
        height = side * side // width // unit * unit
        if height and max(width, height) <= MAX_RATIO * min(width, height):
            found |= {Bucket(width, height), Bucket(height, width)}
    return tuple(sorted(found))


def _lost(size: tuple[int, int], bucket: Bucket) -> float:
    ratio = (size[0] * bucket.height) / (size[1] * bucket.width)
    return 1 - min(ratio, 1 / ratio)


def _shrunk(size: tuple[int, int], best: Bucket, resolution: int, step: int) -> Bucket:
    """``best``, or for a picture that would have to be enlarged a bucket no larger than itself."""
    if size[0] >= best.width and size[1] >= best.height:
        return best
    unit = grain(resolution, step)

    def fitting(length: int) -> int:
        whole = unit if length >= unit else step
        return max(step, length // whole * whole)

    own = Bucket(fitting(min(size[0], MAX_RATIO * size[1])), fitting(min(size[1], MAX_RATIO * size[0])))
    return own if own.width * own.height <= resolution**2 else best


def _into(size: tuple[int, int], bucket: Bucket) -> Placement:
    """Scaled just enough to cover ``bucket``, then cut in the middle."""
    scale = max(bucket.width / size[0], bucket.height / size[1])
    width = max(bucket.width, round(size[0] * scale))
    height = max(bucket.height, round(size[1] * scale))
    return Placement(bucket, (width, height), ((width - bucket.width) // 2, (height - bucket.height) // 2))


class Placements(Sequence[Placement]):
    """Where each of many pictures goes. ``kinds``: (k, 6) int32, each different placement as width and height
    of its bucket, of its picture and left and top of its cut; ``which``: (n,) int32, each picture's."""

    def __init__(self, kinds: np.ndarray, which: np.ndarray) -> None:
        self.kinds, self.which = kinds, which

    def __len__(self) -> int:
        return len(self.which)

    @overload
    def __getitem__(self, number: int) -> Placement: ...

    @overload
    def __getitem__(self, number: slice) -> Placements: ...

    def __getitem__(self, number: int | slice) -> Placement | Placements:
        if isinstance(number, slice):
            return Placements(self.kinds, self.which[number])
        width, height, across, down, left, top = self.kinds[self.which[number]].tolist()
        return Placement(Bucket(width, height), (across, down), (left, top))


def place(
    sizes: Sequence[tuple[int, int]] | np.ndarray, *, resolution: int, step: int, upscale: bool = True
) -> Placements:
    """Where each picture of ``sizes`` (width, height) goes; none is left out, whatever its shape.

    With ``upscale=False`` a picture smaller than its bucket gets a smaller one of its own shape, and is
    enlarged only where a side is below ``step``.
    """
    shapes = buckets(resolution, step)
    pairs = np.asarray(sizes, np.int64).reshape(-1, 2)
    different, which = np.unique(pairs[:, 0] << 32 | pairs[:, 1], return_inverse=True)
    kinds = np.zeros((len(different), 6), np.int32)
    for row, pair in zip(kinds, different.tolist(), strict=True):
        size = pair >> 32, pair & 0xFFFFFFFF
        best = min(shapes, key=lambda shape: (_lost(size, shape), -shape.width * shape.height, shape))
        placed = _into(size, best if upscale else _shrunk(size, best, resolution, step))
        row[:] = (placed.bucket.width, placed.bucket.height, *placed.resize, *placed.crop)
    return Placements(kinds, which.astype(np.int32))


def prepare(image: Image.Image, placement: Placement) -> np.ndarray:
    """The picture in its bucket: uint8 of shape (height, width, 3)."""
    shape = (placement.bucket.width, placement.bucket.height)
    return np.array(cut(image.convert("RGB"), placement, shape, Image.Resampling.LANCZOS), dtype=np.uint8)


def cut(
    image: Image.Image, placement: Placement, shape: tuple[int, int], resample: Image.Resampling
) -> Image.Image:
    """The part of ``image`` that ``placement`` keeps, as a picture of ``shape`` (w, h). Of a copy in another
    size, the same part.

    Scaled and cut in one step, so that a very long picture is never enlarged whole.
    """
    across, down = image.width / placement.resize[0], image.height / placement.resize[1]
    left, top = placement.crop[0] * across, placement.crop[1] * down
    right = min(left + placement.bucket.width * across, image.width)
    bottom = min(top + placement.bucket.height * down, image.height)
    return image.resize(shape, resample, box=(left, top, right, bottom))
