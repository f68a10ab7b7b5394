"""What is minimised: sums with weights, so that any split of a window has the same gradient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

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
    """Mean squared error between prediction and target, one mean per picture; weight = pictures."""

    coefficients: Mapping[str, float] = {"denoising": 1.0}

    def __init__(self, family: ImageFamily, model: ImageModel) -> None:
        self.family = family
        self.model = model

    def weights(self, batch: Batch) -> dict[str, float]:
        return {"denoising": float(len(batch["timesteps"]))}

    def sums(self, batch: Batch) -> dict[str, torch.Tensor]:
        prediction = self.family.predict(self.model, batch)
        target = self.family.target(self.model, batch)
        error = (prediction.float() - target.float()).square()
        return {"denoising": error.flatten(1).mean(1).sum()}

    def measures(self, batch: Batch) -> dict[str, tuple[float, float]]:
        weights = self.weights(batch)
        return {name: (float(value), weights[name]) for name, value in self.sums(batch).items()}

    def report(self, means: Mapping[str, float]) -> dict[str, float]:
        return {}
