"""Learning-rate schedules as pure functions of the optimizer step: nothing to save, nothing to restore."""

from __future__ import annotations

import math
from collections.abc import Callable


def _constant(progress: float) -> float:
    return 1.0


def _linear(progress: float) -> float:
    return 1.0 - progress


def _cosine(progress: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * progress))


SHAPES: dict[str, Callable[[float], float]] = {"constant": _constant, "linear": _linear, "cosine": _cosine}


def factor(name: str, step: int, *, total: int, warmup: int) -> float:
    """What the learning rate is multiplied by at ``step`` (0-based) of ``total``.

    It rises linearly over ``warmup`` steps (the first update is already above zero), then follows the
    shape over what is left, as ``transformers.get_scheduler`` does.
    """
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return SHAPES[name](min(1.0, (step - warmup) / max(1, total - warmup)))
