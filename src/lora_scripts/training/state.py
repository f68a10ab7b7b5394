"""Where a run stands between two windows: everything that the next window depends on, beside the weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any


@dataclass
class TrainingState:
    """``step`` counts windows consumed, ``updates`` optimizer steps: an fp16 overflow consumes data only.

    Data order and noise follow ``step``; the learning-rate schedule follows ``updates``. ``rollbacks``: the
    steps that the run went back to, in their order. ``micro_batch``: examples computed at once where memory
    holds no more; None is what was asked for. ``trouble_since``: the first of the windows running that were
    skipped or far too high; ``spiking`` counts the latter, ``loss_*`` say what is ordinary (see the guard).
    """

    step: int = 0
    updates: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    rollbacks: list[int] = field(default_factory=list)
    micro_batch: int | None = None
    trouble_since: int | None = None
    spiking: int = 0
    loss_count: int = 0
    loss_mean: float = 0.0
    loss_variance: float = 0.0
    best_loss: float | None = None
    best_step: int | None = None
    validations_without_gain: int = 0
    loss_before: float | None = None
    loss_after: float | None = None
    last_loss: float | None = None
    metrics_before: dict[str, float] = field(default_factory=dict)
    metrics_after: dict[str, float] = field(default_factory=dict)

    @property
    def rate_factor(self) -> float:
        """What the learning rate is multiplied by: a half for each time that the run went back."""
        return 0.5 ** len(self.rollbacks)

    def to_json(self) -> dict[str, Any]:
        """Floats as hexadecimal text, so that they come back bit for bit."""
        return {key: _hexed(value) for key, value in asdict(self).items()}

    def restore(self, values: dict[str, Any]) -> None:
        """Takes over what ``to_json`` gave; what an older version did not know is as at the start."""
        known = asdict(type(self)()) | values
        for entry in fields(self):
            setattr(self, entry.name, _plain(known[entry.name]))


def _hexed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _hexed(child) for key, child in value.items()}
    return value.hex() if isinstance(value, float) else value


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(child) for key, child in value.items()}
    return float.fromhex(value) if isinstance(value, str) else value
