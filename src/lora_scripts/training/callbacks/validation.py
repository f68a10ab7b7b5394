"""Held-out loss, always on the same batches: comparable from step to step and from run to run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lora_scripts.adapters.attach import Adapter, set_training
from lora_scripts.core.control import Control
from lora_scripts.core.events import Emit, Event, StepDone, Validated
from lora_scripts.families._base import Model
from lora_scripts.training.averages import Lender
from lora_scripts.training.objective import Objective
from lora_scripts.training.precision import Precision
from lora_scripts.training.state import TrainingState

if TYPE_CHECKING:
    from lora_scripts.families._base import Batch

VALIDATION_SEED = 20_240_501
"""Not the run's seed: runs with different seeds are compared on the same noise."""


@dataclass(frozen=True)
class Measured:
    """``loss`` as in training; ``metrics``: what people read beside it, such as perplexity."""

    loss: float
    metrics: dict[str, float]


class Evaluator:
    """The objective over the held-out batches, each time the same."""

    def __init__(
        self,
        model: Model,
        adapter: Adapter,
        objective: Objective,
        precision: Precision,
        batches: Callable[[], Iterable[Batch]],
        lend: Lender,
    ) -> None:
        self.model = model
        self.adapter = adapter
        self.objective = objective
        self.precision = precision
        self.batches = batches
        self.lend = lend

    def measure(self) -> Measured:
        """Changes nothing: no gradient, dropout off and back on."""
        import torch

        sums: dict[str, float] = {}
        weights: dict[str, float] = {}
        set_training(self.model, self.adapter, False)
        try:
            with torch.no_grad(), self.lend(), self.precision.autocast():
                for batch in self.batches():
                    for name, (value, weight) in self.objective.measures(batch).items():
                        sums[name] = sums.get(name, 0.0) + value
                        weights[name] = weights.get(name, 0.0) + weight
        finally:
            set_training(self.model, self.adapter, True)
        means = {name: sums[name] / weights[name] for name in sums if weights[name]}
        loss = sum(factor * means[name] for name, factor in self.objective.coefficients.items())
        return Measured(loss, self.objective.report(means))


class Validation:
    """Evaluates before the first step and every so many; knows the best, asks to save it, stops early."""

    def __init__(
        self,
        evaluator: Evaluator,
        state: TrainingState,
        control: Control,
        emit: Emit,
        *,
        every_steps: int,
        total_steps: int,
        patience: int | None,
    ) -> None:
        self.evaluator = evaluator
        self.state = state
        self.control = control
        self.emit = emit
        self.every_steps = every_steps
        self.total_steps = total_steps
        self.patience = patience

    def before(self) -> None:
        if self.patience is not None and self.state.validations_without_gain >= self.patience:
            self.control.request("finish")  # the process that had decided so was killed before it could leave
        if self.state.loss_before is None:
            found = self.evaluator.measure()
            self.state.loss_before, self.state.metrics_before = found.loss, found.metrics
            self.emit(Validated(loss=found.loss, best=False, metrics=found.metrics))

    def __call__(self, event: Event, step: int) -> None:
        if isinstance(event, StepDone) and (step % self.every_steps == 0 or step == self.total_steps):
            self._validate(step)

    def _validate(self, step: int) -> None:
        found = self.evaluator.measure()
        loss = self.state.loss_after = found.loss
        self.state.metrics_after = found.metrics
        best = math.isfinite(loss) and (self.state.best_loss is None or loss < self.state.best_loss)
        if best:
            self.state.best_loss, self.state.best_step = loss, step
            self.state.validations_without_gain = 0
            self.control.request("save")
        else:
            self.state.validations_without_gain += 1
            if self.patience is not None and self.state.validations_without_gain >= self.patience:
                self.control.request("finish")
        self.emit(Validated(loss=loss, best=best, metrics=found.metrics))

    def close(self) -> None:
        pass
