"""Where a run stands between two windows: everything that the next window depends on, beside the weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any


@dataclass
class TrainingState:
    """``step`` counts windows consumed, ``updates`` optimizer steps: an fp16 overflow consumes data only.

    Data order and noise follow ``step``; the learning-rate schedule follows ``updates``.
    """

    step: int = 0
    updates: int = 0
    skipped_in_a_row: int = 0
    best_loss: float | None = None
    best_step: int | None = None
    validations_without_gain: int = 0
    loss_before: float | None = None
    loss_after: float | None = None
    last_loss: float | None = None
    metrics_before: dict[str, float] = field(default_factory=dict)
    metrics_after: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Floats as hexadecimal text, so that they come back bit for bit."""
        return {key: _hexed(value) for key, value in asdict(self).items()}

    def restore(self, values: dict[str, Any]) -> None:
        """Takes over what ``to_json`` gave."""
        for entry in fields(self):
            setattr(self, entry.name, _plain(values[entry.name]))


def _hexed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _hexed(child) for key, child in value.items()}
    return value.hex() if isinstance(value, float) else value


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(child) for key, child in value.items()}
    return float.fromhex(value) if isinstance(value, str) else value
