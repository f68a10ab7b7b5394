"""Rows by weight and by content: how often each comes in an epoch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def _numbers(keys: Sequence[str] | np.ndarray) -> np.ndarray:
    """The first 64 bits of each hex key, as (n,) uint64: equal contents, equal numbers on every machine."""
    text = np.asarray(keys).astype("S16")
    if not len(text):
        return np.zeros(0, np.uint64)
    raw = np.frombuffer(text.tobytes(), np.uint8).reshape(-1, 16)
    digits = np.where(raw >= ord("a"), raw - (ord("a") - 10), raw - ord("0")).astype(np.uint64)
    numbers = np.zeros(len(raw), np.uint64)
    for place in range(16):
        numbers = (numbers << np.uint64(4)) | digits[:, place]
    return numbers


def repeats(weights: Sequence[float] | np.ndarray, keys: Sequence[str] | np.ndarray) -> np.ndarray:
    """Positions (m,) int64 of the rows of one epoch, ascending: weight 2 gives a row twice, 0.5 keeps a fixed
    half of the rows, 1.5 gives all once and a fixed half again, 0 none.

    ``keys``: content keys in hex. Of the rows of one weight, those with the smallest keys get the extra
    place, so that the choice is the same on every machine and little changes when rows are added; the number
    is exact. Rows of equal content are told apart by their position. Raises ValueError for a weight that is
    negative or not finite.
    """
    asked = np.asarray(weights, dtype=np.float64)
    if len(asked) and (not np.isfinite(asked).all() or asked.min() < 0):
        raise ValueError("weights are finite and not negative")
    times = np.floor(asked).astype(np.int64)
    numbers = _numbers(keys)
    for weight in np.unique(asked):
        part = weight - np.floor(weight)
        if part > 0:
            rows = np.flatnonzero(asked == weight)
            order = rows[np.argsort(numbers[rows], kind="stable")]
            times[order[: int(np.floor(part * len(rows) + 0.5))]] += 1
    return np.repeat(np.arange(len(asked), dtype=np.int64), times)
