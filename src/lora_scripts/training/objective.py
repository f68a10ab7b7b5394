"""What is minimised: sums with weights, so that any split of a window has the same gradient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from .losses import LossRule

if TYPE_CHECKING:
    import torch

    from lora_scripts.families._base import Batch, ImageFamily, ImageModel


class Objective(Protocol):
    """Named terms. A window's loss is the sum over terms of coefficient x (sum of sums / sum of weights)."""

    coefficients: Mapping[str, float]

    def weights(self, batch: Batch) -> dict[str, float]:
        """Each term's weight in a micro-batch, known without a forward pass."""
        ...

    def sums(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Each term's fp32 sum over a micro-batch, with gradient."""
        ...

    def measures(self, batch: Batch) -> dict[str, tuple[float, float]]:
        """Sum and weight of every term, and of what else is worth measuring; for validation."""
        ...

    def report(self, means: Mapping[str, float]) -> dict[str, float]:
        """What people read beside the loss, from the means of ``measures``."""
        ...


class Denoising:
    """The error between prediction and target, one mean per picture; weight = pictures.

    A batch may hold ``loss_weight`` (B,), what each picture's loss is multiplied with, and ``mask``
    (B, 1, h, w), how much each place counts. What is measured on held-out pictures is always the plain mean
    squared error, whatever is trained on: comparable between runs.
    """

    coefficients: Mapping[str, float] = {"denoising": 1.0}

    def __init__(self, family: ImageFamily, model: ImageModel, rule: LossRule | None = None) -> None:
        self.family = family
        self.model = model
        self.rule = rule or LossRule()

    def weights(self, batch: Batch) -> dict[str, float]:
        return {"denoising": float(len(batch["timesteps"]))}

    def sums(self, batch: Batch) -> dict[str, torch.Tensor]:
        weight, counted = batch.get("loss_weight"), self.family.time_weight(self.model, batch["timesteps"])
        if counted is not None:
            weight = counted if weight is None else weight * counted
        return {"denoising": self._sum(self.rule, batch, mask=batch.get("mask"), weight=weight)}

    def _sum(self, rule: LossRule, batch: Batch, **places: torch.Tensor | None) -> torch.Tensor:
        prediction = self.family.predict(self.model, batch)
        target = self.family.target(self.model, batch)
        velocity = self.model.description.prediction_type == "v_prediction"
        times, steps = batch["timesteps"], self.model.schedule.config.num_train_timesteps
        ratio = self.family.snr(self.model, times)
        return rule.sum(prediction, target, ratio, times, steps, velocity=velocity, **places)

    def measures(self, batch: Batch) -> dict[str, tuple[float, float]]:
        return {"denoising": (float(self._sum(LossRule(), batch)), self.weights(batch)["denoising"])}

    def report(self, means: Mapping[str, float]) -> dict[str, float]:
        return {}
