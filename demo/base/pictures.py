"""Training pictures as tensors: drawn scenes, and random shapes in colours that no scene of the base has."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from demo.draw import Canvas, DayStyle, Style
from demo.world import SIZES, Scene, sample_scene

if TYPE_CHECKING:
    import torch
    from PIL import Image


def to_tensor(picture: Image.Image) -> torch.Tensor:
    """Picture as uint8 (3, height, width)."""
    import numpy
    import torch

    return torch.from_numpy(numpy.asarray(picture).copy()).permute(2, 0, 1)


def to_float(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 to float in -1 ... 1."""
    return pixels.float() / 127.5 - 1


def scenes(count: int, seed: int, *, square: float = 1.0) -> list[Scene]:
    """Seeded scenes; the share `square` is 128 x 128, the rest is 160 x 96 or 96 x 160."""
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        scene = sample_scene(rng)
        width, height = SIZES[0] if rng.random() < square else rng.choice(SIZES[1:])
        made.append(scene.resized(width, height))
    return made


def painted(scene: Scene, style: Style | None = None) -> torch.Tensor:
    return to_tensor((style or DayStyle()).paint(scene))


def random_shapes(rng: random.Random, size: int = 128) -> Image.Image:
    """Boxes, discs and lines in any colours, half of them dark with bright, glowing lines.

    An autoencoder that saw only the base's own look could not code a style that is taught later.
    """
    from PIL import ImageChops, ImageFilter

    def colour(low: int = 0, high: int = 255) -> tuple[int, int, int]:
        return (rng.randint(low, high), rng.randint(low, high), rng.randint(low, high))

    def vivid() -> tuple[int, int, int]:
        channels = [rng.randint(180, 255), rng.randint(0, 255), rng.randint(0, 90)]
        rng.shuffle(channels)
        return (channels[0], channels[1], channels[2])

    dark = rng.random() < 0.6
    canvas, light = Canvas(size, size), Canvas(size, size)
    canvas.gradient(0, size, colour(0, 70 if dark else 255), colour(0, 130 if dark else 255))
    for _ in range(rng.randint(6, 16)):
        x, y = rng.uniform(-8, size), rng.uniform(-8, size)
        fill = colour(0, 60) if dark and rng.random() < 0.7 else (vivid() if rng.random() < 0.5 else colour())
        shape = rng.randrange(4)
        if shape == 0:
            canvas.box(x, y, x + rng.uniform(2, 50), y + rng.uniform(2, 50), fill)
        elif shape == 1:
            canvas.disc(x, y, rng.uniform(1, 24), fill)
        elif shape == 2:
            canvas.line(x, y, x + rng.uniform(-50, 50), y + rng.uniform(-50, 50), fill, rng.uniform(0.6, 4))
        else:
            points = tuple(
                (x + rng.uniform(-30, 30), y + rng.uniform(-30, 30)) for _ in range(rng.randint(3, 5))
            )
            canvas.polygon(points, fill)
    if not dark:
        return canvas.finish()
    for _ in range(rng.randint(3, 10)):
        x, y, far_x, far_y = (rng.uniform(0, size) for _ in range(4))
        bright = vivid()
        if rng.random() < 0.5:
            far_x, far_y = x + (far_x - x) * 0.3, y + (far_y - y) * 0.3
        width = rng.uniform(0.8, 2.2)
        light.line(x, y, far_x, y, bright, width)
        light.line(far_x, y, far_x, far_y, bright, width)
        if rng.random() < 0.5:
            light.line(far_x, far_y, x, y, bright, width)
    lines = light.finish()
    glow = lines.filter(ImageFilter.GaussianBlur(rng.uniform(2, 6)))
    return ImageChops.lighter(ImageChops.add(ImageChops.add(canvas.finish(), glow), glow), lines)
