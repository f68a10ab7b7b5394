"""Held-out loss on a fixed, seeded set of (picture, time step, noise): comparable from step to step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lora_scripts.adapters.attach import Adapter, set_training
from lora_scripts.core.control import Control
from lora_scripts.core.events import Emit, Event, StepDone, Validated
from lora_scripts.core.seeds import derive_seed
from lora_scripts.data.sample import Sample
from lora_scripts.families._base import Draw, Family, Model
from lora_scripts.training.objective import Objective
from lora_scripts.training.precision import Precision
from lora_scripts.training.stages import CachedStages
from lora_scripts.training.state import TrainingState

if TYPE_CHECKING:
    from lora_scripts.families._base import Batch

VALIDATION_SEED = 20_240_501
"""Not the run's seed: runs with different seeds are compared on the same noise."""


class Evaluator:
    """Mean loss over the held-out samples, each at ``timesteps`` evenly spread time steps."""

    def __init__(
        self,
        family: Family,
        model: Model,
        adapter: Adapter,
        stages: CachedStages,
        samples: Sequence[Sample],
        objective: Objective,
        precision: Precision,
        timesteps: int,
    ) -> None:
        self.family = family
        self.model = model
        self.adapter = adapter
        self.stages = stages
        self.samples = samples
        self.objective = objective
        self.precision = precision
        self.timesteps = timesteps

    def batches(self) -> list[Batch]:
        length = self.model.schedule.config.num_train_timesteps
        spread = [int(length * (index + 0.5) / self.timesteps) for index in range(self.timesteps)]
        result = []
        for sample in self.samples:
            item = self.stages.item(sample)
            draws = [Draw(derive_seed(VALIDATION_SEED, sample.picture.sha256, t), t) for t in spread]
            result.append(self.family.collate(self.model, [item] * len(draws), draws))
        return result

    def loss(self) -> float:
        """Changes nothing: no gradient, dropout off and back on."""
        import torch

        total = weight = 0.0
        set_training(self.model, self.adapter, False)
        try:
            batches = self.batches()
            with torch.no_grad(), self.precision.autocast():
                for batch in batches:
                    total += sum(float(value) for value in self.objective.sums(batch).values())
                    weight += sum(self.objective.weights(batch).values())
        finally:
            set_training(self.model, self.adapter, True)
        return total / weight


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
        if self.state.loss_before is None:
            self.state.loss_before = self.evaluator.loss()
            self.emit(Validated(loss=self.state.loss_before, best=False))

    def __call__(self, event: Event, step: int) -> None:
        if isinstance(event, StepDone) and (step % self.every_steps == 0 or step == self.total_steps):
            self._validate(step)

    def _validate(self, step: int) -> None:
        loss = self.state.loss_after = self.evaluator.loss()
        best = self.state.best_loss is None or loss < self.state.best_loss
        if best:
            self.state.best_loss, self.state.best_step = loss, step
            self.state.validations_without_gain = 0
            self.control.request("save")
        else:
            self.state.validations_without_gain += 1
            if self.patience is not None and self.state.validations_without_gain >= self.patience:
                self.control.request("finish")
        self.emit(Validated(loss=loss, best=best))

    def close(self) -> None:
        pass
