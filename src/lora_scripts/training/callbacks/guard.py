"""Stops a run that no longer learns anything, before it writes anything that is not finite."""

from __future__ import annotations

from lora_scripts.core.events import Event, StepDone
from lora_scripts.core.problems import Problem, ProblemsError
from lora_scripts.training.batches import Batches
from lora_scripts.training.precision import Precision
from lora_scripts.training.state import TrainingState

PATIENCE = 3
PATIENCE_FP16 = 25
"""In fp16 the scaler halves the scale at each overflow: from 2**12 it is below 1 after 13 windows."""
NAMED = 8


class Guard:
    """Raises ``ProblemsError`` (LS6001, naming the examples) when too many windows running are not finite."""

    def __init__(self, state: TrainingState, batches: Batches, precision: Precision) -> None:
        self.state = state
        self.batches = batches
        self.patience = PATIENCE_FP16 if precision.mode == "fp16" else PATIENCE

    def __call__(self, event: Event, step: int) -> None:
        if not isinstance(event, StepDone) or self.state.skipped_in_a_row < self.patience:
            return
        names = ", ".join(self.batches.names(step - 1, NAMED))
        raise ProblemsError(
            Problem("LS6001", {"count": self.state.skipped_in_a_row, "step": step, "examples": names})
        )

    def close(self) -> None:
        pass
