"""What the doctor remembers of a picture: a small grey copy to compare by, and how wide its edges are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

SIDE = 32
"""Side of the grey copy in pixels, whatever the picture's shape."""
COMMON = 384
"""Pictures are judged for sharpness at this many pixels squared at most; none is enlarged for it."""
SOFT, SOFT_PIXELS = 0.0075, 1.7
"""Width of the clearest edges (standard deviation, in shares of the side and in pixels) from which a picture
is blurred. Sharp photographs, drawings and rendered icons measured up to 0.005; a Gaussian blur of 0.008 of
the side measures 0.0075 to 0.011."""
FAINT = 2.5
"""Grey levels per pixel below which nothing in a picture is an edge: fog, sky, a plain ground."""
_BEFORE, _MORE = 1.0, 8.0**0.5
_CLEAR = 0.5


@dataclass(frozen=True, slots=True)
class Look:
    """``grey``: uint8 (SIDE, SIDE). ``softness``: width of the clearest edges over what is allowed, so that 1
    and more is blurred; None where there is no edge."""

    grey: np.ndarray
    softness: float | None


def look_at(image: Image.Image) -> Look:
    """What is kept of an RGB picture: about a kilobyte."""
    grey = image.convert("L")
    small = grey.resize((SIDE, SIDE), Image.Resampling.BOX)
    return Look(np.array(small, dtype=np.uint8), softness(grey))


def smooth(values: np.ndarray, sigma: float) -> np.ndarray:
    """A Gaussian blur over the last two axes; edges are continued."""
    reach = int(3 * sigma + 0.5)
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    weights = (weights / weights.sum()).astype(np.float32)
    for axis in (values.ndim - 2, values.ndim - 1):
        widths = [(reach, reach) if each == axis else (0, 0) for each in range(values.ndim)]
        padded = np.pad(values, widths, mode="edge")
        length = values.shape[axis]
        total = np.zeros_like(values)
        for start, weight in enumerate(weights):
            pick = [slice(None)] * values.ndim
            pick[axis] = slice(start, start + length)
            total += weight * padded[tuple(pick)]
        values = total
    return values


def _steepness(grey: np.ndarray) -> np.ndarray:
    down = (grey[2:, 1:-1] - grey[:-2, 1:-1]) / 2
    across = (grey[1:-1, 2:] - grey[1:-1, :-2]) / 2
    return np.hypot(down, across)


def edge_width(grey: Image.Image) -> tuple[float, float]:
    """How wide the clearest edges are (standard deviation, pixels) and how steep (levels per pixel).

    Up to 1.3 times as wide as at an edge's very middle, since the pixels beside it are asked too.

    A blurred step of width s falls from a slope of 1/s to 1/sqrt(s² + t²) when it is blurred by t more,
    whatever its contrast (S. Zhuo, T. Sim, Defocus map estimation from a single image, 2011). Only the
    steepest edges are asked, so that a soft background, a dark picture or an even ground says nothing against
    a picture.
    """
    values = smooth(np.asarray(grey, dtype=np.float32), _BEFORE)
    steep = _steepness(values)
    if not steep.size:
        return 0.0, 0.0
    top = float(np.percentile(steep, 99.9))
    if top < FAINT:
        return 0.0, top
    clear = steep >= _CLEAR * top
    softer = _steepness(smooth(values, _MORE))[clear]
    ratio = float(np.median(steep[clear] / np.maximum(softer, 1e-6)))
    spread = _MORE**2 / max(ratio**2 - 1, 1e-3) - _BEFORE**2
    return max(spread, 0.0) ** 0.5, top


def softness(grey: Image.Image) -> float | None:
    """The edges' width over the width from which a picture is blurred; None without edges."""
    scale = COMMON / (grey.width * grey.height) ** 0.5
    if scale < 1:
        size = (max(3, round(grey.width * scale)), max(3, round(grey.height * scale)))
        grey = grey.resize(size, Image.Resampling.BOX)
    width, top = edge_width(grey)
    if top < FAINT:
        return None
    side = (grey.width * grey.height) ** 0.5
    return width / max(SOFT * side, SOFT_PIXELS)
