"""Which pictures could be the same: low frequencies of each against those of windows in every other one.

Comparing two windows is a normalised cross-correlation at reduced size, written as a scalar product; all
pairs are one matrix product after another, so that 100,000 pictures need no loop over pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from .looks import SIDE

FREQUENCIES = 8
ALIKE = 0.8
"""Correlation from which a pair is looked at closely."""
PART_ALIKE = 0.72
"""The same where a part is looked for: its window is met half a step beside and in half the detail."""
NEAREST = 8
"""Pairs that are looked at closely for each picture, at most."""
SLIGHT = (1.0, 0.92)
DEEP = (0.89, 0.79, 0.71, 0.63, 0.56, 0.5)
"""Sides of the windows, in shares of the picture's: what a slight crop, and a crop, leaves."""
_CELLS = 16
_STEP = 0.06
_ROOM = 12_000_000
"""Numbers that are held at a time."""
_MIRROR = np.array([(-1.0) ** across for _ in range(FREQUENCIES) for across in range(FREQUENCIES)])[1:]


@dataclass(frozen=True, slots=True)
class Candidate:
    """Picture ``part`` looks like the window of ``whole`` at ``start``: scale and shift across and down, in
    coordinates from -1 to 1."""

    whole: int
    part: int
    start: tuple[float, float, float, float]
    mirrored: bool = False


def _cosines(cells: int) -> np.ndarray:
    """The first rows of the orthonormal discrete cosine transform (type II), (FREQUENCIES, cells)."""
    place = 2 * np.arange(cells)[None] + 1
    rows = np.sqrt(2 / cells) * np.cos(np.pi * place * np.arange(FREQUENCIES)[:, None] / (2 * cells))
    rows[0] /= np.sqrt(2)
    return rows


def _averages(start: float, length: float) -> np.ndarray:
    """(_CELLS, SIDE): means over equal parts of a stretch of the grey copy; both ends in shares of it."""
    bounds = (start + length * np.arange(_CELLS + 1) / _CELLS) * SIDE
    pixels = np.arange(SIDE)
    low, high = np.maximum(bounds[:-1, None], pixels), np.minimum(bounds[1:, None], pixels + 1)
    covered = np.clip(high - low, 0, None)
    return covered / covered.sum(axis=1, keepdims=True)


def _stretches(shares: tuple[float, ...]) -> list[tuple[float, float]]:
    """(start, length) of every window along one side."""
    found = []
    for share in shares:
        count = max(1, round((1 - share) / _STEP) + 1) if share < 1 else 1
        count += share == SLIGHT[1]
        found += [(float(start), share) for start in np.linspace(0, 1 - share, count)]
    return found


_ACROSS = np.add.outer(np.arange(FREQUENCIES), np.zeros(FREQUENCIES))
_WEIGHTS = np.sqrt(np.hypot(_ACROSS, _ACROSS.T)).ravel()[1:]
"""Low frequencies dominate every picture; damping them lets the others be heard."""


class Windows:
    """Fingerprints of windows: unit vectors (…, 63) of weighted low frequencies without the mean."""

    def __init__(self, shares: tuple[float, ...]) -> None:
        self.stretches = _stretches(shares)
        parts = [_cosines(_CELLS) @ _averages(*stretch) for stretch in self.stretches]
        self._transform = np.concatenate(parts).astype(np.float32)

    def of(self, grey: np.ndarray) -> np.ndarray:
        """(n, SIDE, SIDE) -> (n, windows down, windows across, 63)."""
        count, windows = len(grey), len(self.stretches)
        found = self._transform @ grey.astype(np.float32) @ self._transform.T
        found = found.reshape(count, windows, FREQUENCIES, windows, FREQUENCIES).transpose(0, 1, 3, 2, 4)
        flat = found.reshape(count, windows, windows, FREQUENCIES**2)[..., 1:] * _WEIGHTS.astype(np.float32)
        length = np.linalg.norm(flat, axis=-1, keepdims=True)
        return np.where(length > 1, flat / np.maximum(length, 1), 0).astype(np.float32)


def candidates(
    grey: np.ndarray,
    aspects: np.ndarray,
    *,
    deep: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[list[Candidate]]:
    """Pairs worth a closer look, for one block of pictures after another.

    ``grey``: uint8 (n, SIDE, SIDE); ``aspects``: width over height. With ``deep`` windows down to half of
    each side, else slight crops and mirrored pictures. ``progress`` gets (done, total).
    """
    whole = Windows((1.0,)).of(grey)[:, 0, 0]
    windows = Windows(DEEP if deep else SLIGHT)
    places = windows.stretches
    count, each = len(grey), len(windows.stretches) ** 2
    block = min(64, max(1, _ROOM // (max(1, count) * each)))
    turned = whole * _MIRROR.astype(np.float32)
    for first in range(0, count, block):
        numbers = range(first, min(first + block, count))
        prints = windows.of(grey[numbers.start : numbers.stop]).reshape(len(numbers) * each, -1)
        scores = (prints @ whole.T).reshape(len(numbers), each, count)
        found: list[Candidate] = []
        for number, score in zip(numbers, scores, strict=True):
            found += _nearest(number, score, places, aspects, deep)
        if not deep:
            for number, score in zip(numbers, turned[numbers.start : numbers.stop] @ whole.T, strict=True):
                found += _mirrored(number, score)
        yield found
        if progress is not None:
            progress(numbers.stop, count)


def _nearest(
    number: int, scores: np.ndarray, places: list[tuple[float, float]], aspects: np.ndarray, deep: bool
) -> list[Candidate]:
    score = scores.max(axis=0)
    score[number] = -1
    found = []
    for other in _top(score, PART_ALIKE if deep else ALIKE):
        down, across = (places[index] for index in divmod(int(scores[:, other].argmax()), len(places)))
        shape = aspects[number] * across[1] / down[1] / aspects[other]
        if deep and not 0.8 < shape < 1.25:
            continue
        start = (across[1], 2 * across[0] + across[1] - 1, down[1], 2 * down[0] + down[1] - 1)
        found.append(Candidate(number, int(other), start))
    return found


def _mirrored(number: int, score: np.ndarray) -> list[Candidate]:
    score[: number + 1] = -1
    return [Candidate(number, int(other), (1.0, 0.0, 1.0, 0.0), True) for other in _top(score, ALIKE)]


def _top(score: np.ndarray, least: float) -> np.ndarray:
    near = np.flatnonzero(score >= least)
    if len(near) > NEAREST:
        near = near[np.argpartition(-score[near], NEAREST)[:NEAREST]]
    return near[np.argsort(-score[near], kind="stable")]
