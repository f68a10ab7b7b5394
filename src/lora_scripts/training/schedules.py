"""Learning-rate schedules as pure functions of the optimizer step: nothing to save, nothing to restore."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """``total`` and ``warmup`` in optimizer steps. ``cycles``: times that ``cosine_with_restarts`` starts
    anew; ``power`` of ``polynomial``; ``floor``: share of the learning rate below which no shape falls."""

    name: str
    total: int
    warmup: int = 0
    cycles: int = 1
    power: float = 1.0
    floor: float = 0.0

    def factor(self, step: int) -> float:
        """What the learning rate is multiplied by at ``step``, counted from 0.

        It rises linearly over ``warmup`` steps (the first update is already above zero), then follows the
        shape over what is left, as ``transformers.get_scheduler`` does.
        """
        if step < self.warmup:
            return (step + 1) / (self.warmup + 1)
        progress = min(1.0, (step - self.warmup) / max(1, self.total - self.warmup))
        return self.floor + (1.0 - self.floor) * SHAPES[self.name](self, progress, step)


def _constant(schedule: Schedule, progress: float, step: int) -> float:
    return 1.0


def _linear(schedule: Schedule, progress: float, step: int) -> float:
    return 1.0 - progress


def _cosine(schedule: Schedule, progress: float, step: int) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def _restarts(schedule: Schedule, progress: float, step: int) -> float:
    if progress >= 1.0:
        return 0.0
    return 0.5 * (1.0 + math.cos(math.pi * ((schedule.cycles * progress) % 1.0)))


def _polynomial(schedule: Schedule, progress: float, step: int) -> float:
    return float((1.0 - progress) ** schedule.power)


def _inverse_sqrt(schedule: Schedule, progress: float, step: int) -> float:
    """Relative to the warm-up, as Transformers has it; without one, to its default of 10,000 steps."""
    scale = schedule.warmup or 10_000
    return 1.0 / math.sqrt((step - schedule.warmup + scale) / scale)


DECAY_SHARE = 0.1


def _stable_decay(schedule: Schedule, progress: float, step: int) -> float:
    """Full rate, then straight down over the last tenth (warm-up, stable, decay; Hu et al. 2024)."""
    return min(1.0, (1.0 - progress) / DECAY_SHARE)


SHAPES: dict[str, Callable[[Schedule, float, int], float]] = {
    "constant": _constant,
    "linear": _linear,
    "cosine": _cosine,
    "cosine_with_restarts": _restarts,
    "polynomial": _polynomial,
    "inverse_sqrt": _inverse_sqrt,
    "warmup_stable_decay": _stable_decay,
}
