"""What a denoiser's error counts: its shape, its weight by time step, its weight by example and by place.

All of it is known before the forward pass except the error itself, so that any split of a window has the
gradient of the whole.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

SNR_CEILING = 1000.0
"""Debiased estimation counts a signal-to-noise ratio above this as this, as sd-scripts does: the first time
steps have hardly any noise, and their weight would be next to nothing."""


@dataclass(frozen=True)
class LossRule:
    """How the error between prediction and target becomes a loss.

    ``kind``: ``l2``, ``huber`` or ``smooth_l1``, whose threshold ``huber_c`` follows ``huber_schedule`` over
    the time steps. ``min_snr_gamma`` and ``debiased`` weigh the time steps.
    """

    kind: Literal["l2", "huber", "smooth_l1"] = "l2"
    huber_c: float = 0.1
    huber_schedule: Literal["snr", "exponential", "constant"] = "snr"
    min_snr_gamma: float | None = None
    debiased: bool = False

    def sum(
        self,
        prediction: Tensor,
        target: Tensor,
        ratio: Tensor,
        timesteps: Tensor,
        steps: int,
        *,
        velocity: bool = False,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """The float32 sum over pictures of ``weight x time-step weight x mean error``.

        ``prediction`` and ``target`` (B, C, h, w); ``ratio`` (B,): the signal-to-noise ratio at
        ``timesteps`` (B,), of which there are ``steps``. ``velocity``: the target is v. ``mask`` (B, 1, h,
        w), nowhere below zero: each picture's error is its mean under the mask, and zero where the mask is
        zero everywhere. ``weight`` (B,).
        """
        ratio = ratio.to(prediction.device)
        error = self.error(prediction.float(), target.float(), ratio, timesteps, steps)
        means = error.flatten(1).mean(1) if mask is None else masked_means(error, mask.to(error))
        if self.min_snr_gamma is not None:
            means = means * min_snr_weight(ratio, self.min_snr_gamma, velocity).to(means)
        if self.debiased:
            means = means * debiased_weight(ratio, velocity).to(means)
        if weight is not None:
            means = means * weight.to(means)
        return means.sum()

    def error(
        self, prediction: Tensor, target: Tensor, ratio: Tensor, timesteps: Tensor, steps: int
    ) -> Tensor:
        """Element by element (B, C, h, w). ``huber`` is ``2c (sqrt(e^2 + c^2) - c)``, which is ``e^2`` for
        small errors, and ``smooth_l1`` the same over ``c``, which is ``2 |e|`` for large ones: the
        pseudo-Huber losses of sd-scripts (arXiv:2403.16728)."""
        squared = (prediction - target).square()
        if self.kind == "l2":
            return squared
        c = self.threshold(ratio, timesteps, steps).to(squared).view(-1, 1, 1, 1)
        rooted = (squared + c.square()).sqrt() - c
        return 2 * c * rooted if self.kind == "huber" else 2 * rooted

    def threshold(self, ratio: Tensor, timesteps: Tensor, steps: int) -> Tensor:
        """``c`` (B,) at each time step t of ``steps`` T. ``exponential``: from 1 down to ``huber_c`` as
        ``huber_c^(t/T)``; ``snr``: ``(1 - huber_c) / (1 + sigma)^2 + huber_c`` with sigma the noise over the
        signal."""
        import torch

        if self.huber_schedule == "constant":
            return torch.full(timesteps.shape, self.huber_c, dtype=torch.float64)
        if self.huber_schedule == "exponential":
            return torch.exp(math.log(self.huber_c) / steps * timesteps.double().cpu())
        sigma = ratio.double().cpu().rsqrt()
        return (1 - self.huber_c) / (1 + sigma).square() + self.huber_c


def masked_means(error: Tensor, mask: Tensor) -> Tensor:
    """Each picture's mean error (B,) under its mask: what is masked in counts alike, however small it is."""
    total = mask.flatten(1).sum(1) * error.shape[1]
    return (error * mask).flatten(1).sum(1) / total.clamp_min(1e-12)


def min_snr_weight(ratio: Tensor, gamma: float, velocity: bool) -> Tensor:
    """Min-SNR-gamma (Hang et al. 2023, arXiv:2303.09556): ``min(SNR, gamma)`` on the error of the picture,
    which is ``/ SNR`` on that of the noise and ``/ (SNR + 1)`` on that of v."""
    if velocity:
        return ratio.clamp(max=gamma) / (ratio + 1)
    return (gamma / ratio).clamp(max=1)


def debiased_weight(ratio: Tensor, velocity: bool) -> Tensor:
    """Debiased estimation (Yu et al. 2023, arXiv:2310.08442): ``1 / sqrt(SNR)`` on the error of the noise;
    on that of v, as sd-scripts has it, ``1 / (SNR + 1)``."""
    bounded = ratio.clamp(max=SNR_CEILING)
    return 1 / (bounded + 1) if velocity else bounded.rsqrt()
