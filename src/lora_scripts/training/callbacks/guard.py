"""Notices a run that no longer learns: windows that are not finite, or a loss that has left its usual range.

What the run then does is ``recovery``'s business.
"""

from __future__ import annotations

import math
from typing import Literal

from lora_scripts.core.catalogue import say
from lora_scripts.core.events import Emit, Event, Noted, StepDone
from lora_scripts.core.problems import Problem, ProblemsError
from lora_scripts.training.batches import Batches
from lora_scripts.training.precision import Precision
from lora_scripts.training.state import TrainingState

PATIENCE = 3
PATIENCE_FP16 = 25
"""In fp16 the scaler halves the scale at each overflow: from 2**12 it is below 1 after 13 windows."""
NAMED = 12
SPIKE = 10
"""Windows running that a loss must be far too high. One alone says nothing: the loss of a single picture
ranges over two orders of magnitude with its noise."""
SIGMAS = 6.0
TIMES = 1.5
"""Far too high is above the mean by 6 standard deviations and by half of it: where large batches make the
loss smooth, a restarting learning rate moves it by many deviations and by few percent."""
MEMORY = 100
"""Windows that mean and deviation reach back."""
ENOUGH = 50
"""Windows before which nothing is judged."""
Cause = Literal["not_finite", "spike"]
CODES: dict[Cause, str] = {"not_finite": "LS6001", "spike": "LS6002"}


class DivergedError(ProblemsError):
    """``cause``; ``since``: the step of the first window that went wrong; ``examples``: what was learnt in it
    and after it."""

    def __init__(self, cause: Cause, count: int, step: int, since: int, examples: list[str]) -> None:
        self.cause = cause
        self.count = count
        self.since = since
        self.examples = examples
        told = {"count": count, "step": step, "examples": ", ".join(examples)}
        super().__init__(Problem(CODES[cause], told))


class Guard:
    """Raises ``DivergedError`` when too many windows running are not finite or far too high (``spikes``)."""

    def __init__(
        self, state: TrainingState, batches: Batches, precision: Precision, emit: Emit, *, spikes: bool
    ) -> None:
        self.state = state
        self.batches = batches
        self.emit = emit
        self.spikes = spikes
        self.scaled = precision.mode == "fp16"
        self.patience = PATIENCE_FP16 if self.scaled else PATIENCE

    def __call__(self, event: Event, step: int) -> None:
        if not isinstance(event, StepDone):
            return
        state = self.state
        high = self.spikes and not event.skipped and self._far_too_high(event.loss or 0.0)
        if not event.skipped:
            state.spiking = state.spiking + 1 if high else 0
        elif not self.scaled:  # where it is scaled, a window skipped now and then is how it finds its scale
            self._tell(step)
        state.trouble_since = (state.trouble_since or step) if event.skipped or high else None
        if state.skipped_in_a_row >= self.patience:
            raise self._diverged("not_finite", state.skipped_in_a_row, step)
        if state.spiking >= SPIKE:
            raise self._diverged("spike", state.spiking, step)

    def _far_too_high(self, loss: float) -> bool:
        """Judges a loss by those before it; if it is ordinary, it counts for those after it: exponentially
        weighted mean and variance (T. Finch 2009, "Incremental calculation of weighted mean and variance"),
        plain ones over the first windows."""
        state = self.state
        limit = state.loss_mean + SIGMAS * math.sqrt(state.loss_variance)
        if state.loss_count >= ENOUGH and loss > max(limit, TIMES * state.loss_mean):
            return True
        state.loss_count += 1
        share = max(1 / state.loss_count, 1 / MEMORY)
        change = loss - state.loss_mean
        state.loss_mean += share * change
        state.loss_variance = (1 - share) * (state.loss_variance + share * change * change)
        return False

    def _tell(self, step: int) -> None:
        names = ", ".join(self.batches.names(step - 1)[:NAMED])
        self.emit(Noted(code="", text=say("guard.skipped", step=step, examples=names)))

    def _diverged(self, cause: Cause, count: int, step: int) -> DivergedError:
        since = self.state.trouble_since or step
        names = [name for number in range(step - count, step) for name in self.batches.names(number)]
        return DivergedError(cause, count, step, since, list(dict.fromkeys(names))[:NAMED])

    def close(self) -> None:
        pass
