"""Laying one picture on another, and whether anything but noise is left: the last word on two pictures.

Scale, shift and brightness are found by Gauss and Newton's method on the difference of the two (B. Lucas, T.
Kanade, An iterative image registration technique, 1981), for many pairs at once.
"""

from __future__ import annotations

import numpy as np

from .looks import smooth

LEFT = 0.5
"""What may differ in all but a hundredth of the pixels, in shares of the picture's contrast."""
LEVELS = 28.0
"""The same in grey levels: strong contrast excuses no other object."""
GAIN, LIFT = 1.2, 18.0
"""How far a copy may be brightened: factor and grey levels."""
STRETCH = 1.12
"""How unlike the two scales may be."""
FINE = 64
"""Side in pixels at which two pictures are compared."""
PART_BLUR = 1.5
"""How much softer a part has to be made to be as soft as the same part in a small copy of the whole."""
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)

Fit = np.ndarray
"""(n, 6): scale and shift across, scale and shift down (coordinates -1 to 1), gain, lift."""


def _grid(side: int) -> np.ndarray:
    return ((np.arange(side) + 0.5) / side * 2 - 1).astype(np.float32)


def _sampled(values: np.ndarray, across: np.ndarray, down: np.ndarray) -> np.ndarray:
    """(n, h, w) at columns ``across`` (n, w) and rows ``down`` (n, h), bilinear."""
    count, height, width = values.shape
    left = np.clip(np.floor(across), 0, width - 2).astype(np.int64)
    top = np.clip(np.floor(down), 0, height - 2).astype(np.int64)
    right = np.clip(across - left, 0, 1)[:, None, :]
    below = np.clip(down - top, 0, 1)[:, :, None]
    place = (np.arange(count)[:, None] * height + top)[:, :, None] * width + left[:, None, :]
    flat = values.reshape(-1)
    upper = flat[place] * (1 - right) + flat[place + 1] * right
    lower = flat[place + width] * (1 - right) + flat[place + width + 1] * right
    return upper * (1 - below) + lower * below


def _where(fit: Fit, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns and rows of the first picture under each pixel of the second, and which of them exist."""
    grid = _grid(side)
    across, down = grid * fit[:, 0:1] + fit[:, 1:2], grid * fit[:, 2:3] + fit[:, 3:4]
    inside = (np.abs(down) <= 1)[:, :, None] & (np.abs(across) <= 1)[:, None, :]
    return (across + 1) / 2 * side - 0.5, (down + 1) / 2 * side - 0.5, inside


def register(first: np.ndarray, second: np.ndarray, fit: Fit, rounds: int) -> Fit:
    """``fit`` made better, so that first(warped) = gain * second + lift. Both float32 (n, side, side)."""
    count, side, _ = first.shape
    grid = _grid(side)
    down_slope, across_slope = (slope * side / 2 for slope in np.gradient(first, axis=(1, 2)))
    fit = fit.copy()
    for _ in range(rounds):
        across, down, inside = _where(fit, side)
        warped = _sampled(first, across, down)
        ax, ay = _sampled(across_slope, across, down), _sampled(down_slope, across, down)
        rest = warped - (fit[:, 4, None, None] * second + fit[:, 5, None, None])
        slopes = np.stack(
            [ax * grid, ax, ay * grid[:, None], ay, -second, -np.ones_like(second)], axis=1
        ).reshape(count, 6, -1)
        weighted = slopes * inside.reshape(count, 1, -1)
        normal = (weighted @ slopes.transpose(0, 2, 1)).astype(np.float64)
        damping = np.einsum("nii->ni", normal)[:, :, None] * np.eye(6) * 1e-3 + np.eye(6) * 1e-2
        step = np.linalg.solve(normal + damping, (weighted @ rest.reshape(count, -1, 1)).astype(np.float64))
        fit = (fit - step[:, :, 0]).astype(np.float32)
        fit[:, [0, 2]] = np.clip(fit[:, [0, 2]], 0.4, 2.0)
        fit[:, [1, 3]] = np.clip(fit[:, [1, 3]], -0.7, 0.7)
        fit[:, 4] = np.clip(fit[:, 4], 0.5, 2.0)
    return fit


def roughly(
    first: np.ndarray, second: np.ndarray, start: np.ndarray, *, parts: bool = False
) -> tuple[Fit, np.ndarray]:
    """Fits of grey copies from ``start`` (n, 4), and which of them are worth opening the files for.

    ``parts``: the second shows a part of the first, and so more than the first has pixels for.
    """
    count, side, _ = first.shape
    fit = np.concatenate([start, np.tile([1.0, 0.0], (count, 1))], axis=1).astype(np.float32)
    for blur, rounds in ((1.5, 6), (0.8, 4)):
        one, two = (
            smooth(first.astype(np.float32), blur),
            smooth(second.astype(np.float32), blur * (PART_BLUR if parts else 1)),
        )
        fit = register(one, two, fit, rounds)
    across, down, inside = _where(fit, side)
    rest = np.abs(_sampled(one, across, down) - (fit[:, 4, None, None] * two + fit[:, 5, None, None]))
    typical = (rest * inside).sum(axis=(1, 2)) / np.maximum(inside.sum(axis=(1, 2)), 1)
    contrast = two.std(axis=(1, 2))
    return fit, _plausible(fit) & (typical <= np.maximum((0.4 if parts else 0.25) * contrast, 3))


def _plausible(fit: Fit) -> np.ndarray:
    scale = fit[:, 0] / fit[:, 2]
    bright = (fit[:, 4] < GAIN) & (fit[:, 4] > 1 / GAIN) & (np.abs(fit[:, 5]) < LIFT)
    return bright & (scale < STRETCH) & (scale > 1 / STRETCH)


def same(first: np.ndarray, second: np.ndarray, fit: Fit) -> Fit | None:
    """The fit (6,) of two RGB pictures (side, side, 3) if nothing but noise tells them apart, else None."""
    side = first.shape[0]
    one, two = first.astype(np.float32)[None], second.astype(np.float32)[None]
    fit = register(smooth(one @ _LUMA, 1.2), smooth(two @ _LUMA, 1.2), fit[None], 5)
    if not _plausible(fit)[0]:
        return None
    across, down, inside = _where(fit, side)
    if inside.mean() < 0.6:
        return None
    gain, lift = fit[0, 4], fit[0, 5]
    rest = np.zeros((side, side), dtype=np.float32)
    for band in range(3):
        warped = _sampled(smooth(one[..., band], 0.8), across, down)[0]
        rest = np.maximum(rest, np.abs(warped - (gain * smooth(two[..., band], 0.8)[0] + lift)))
    left = float(np.percentile(smooth(rest[None], 1.0)[0][inside[0]], 99))
    contrast = float(smooth(two @ _LUMA, 1.0)[0][inside[0]].std())
    return fit[0] if left <= min(LEVELS, max(LEFT * contrast, 3.0)) else None
