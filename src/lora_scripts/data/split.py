"""Pictures held out of training, so that the validation loss says something about unseen ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

AUTO_SHARE, AUTO_MOST, AUTO_FROM = 0.1, 8, 20


def held_out_count(count: int, share: float | Literal["auto"]) -> int:
    """How many of ``count`` examples to hold out.

    ``auto`` is a tenth, one at least and ``AUTO_MOST`` at most, and none of fewer than ``AUTO_FROM``. A share
    of one's own gives one at least and leaves one at least to learn from; 0 holds nothing out.
    """
    if share == "auto":
        return min(AUTO_MOST, max(1, round(count * AUTO_SHARE))) if count >= AUTO_FROM else 0
    return min(count - 1, max(1, round(count * share))) if share > 0 and count > 1 else 0


def held_out(hashes: Sequence[str] | np.ndarray, share: float | Literal["auto"]) -> np.ndarray:
    """Positions (k,) int64 to hold out, ascending, chosen by content (``hashes``: a key of each example's).

    The order of the examples, their names and the seed play no part, so that a data set that grows keeps most
    of its held-out pictures. Those that occur twice are taken last: their twin would be trained on.
    """
    _, which, times = np.unique(np.asarray(hashes), return_inverse=True, return_counts=True)
    order = np.lexsort((np.arange(len(which)), which, times[which] > 1))
    return np.sort(order[: held_out_count(len(which), share)]).astype(np.int64)
