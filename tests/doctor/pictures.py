"""Pictures for the doctor's tests: scenes that look like photographs to its measures, and drawn ones."""

from __future__ import annotations

import csv
import random
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from demo.draw import DayStyle
from demo.neon import NeonStyle
from demo.world import sample_scene


def photo(seed: int, width: int = 320, height: int = 256) -> Image.Image:
    """Shapes of many sizes over a soft ground with a little noise: no two seeds share anything."""
    draw_from = random.Random(seed)
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(image)
    for _ in range(14):
        x, y = draw_from.randrange(width), draw_from.randrange(height)
        w, h = draw_from.randrange(16, width // 3), draw_from.randrange(16, height // 3)
        colour = tuple(draw_from.randrange(256) for _ in range(3))
        draw_from.choice((pen.ellipse, pen.rectangle))((x, y, x + w, y + h), fill=colour)
    noise = np.random.default_rng(seed + 1).normal(0, 3, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def drawn(seed: int, scale: int = 2) -> Image.Image:
    """A picture of the demo world, in one of its two styles."""
    scene = sample_scene(random.Random(seed), sizes=((128, 128), (160, 96), (96, 160)))
    scene = scene.resized(scene.width * scale, scene.height * scale)
    return (NeonStyle() if seed % 2 else DayStyle()).paint(scene)


def blurred(image: Image.Image, share: float) -> Image.Image:
    """Out of focus by ``share`` of the side."""
    return image.filter(ImageFilter.GaussianBlur(share * (image.width * image.height) ** 0.5))


def part(image: Image.Image, left: float, top: float, right: float, bottom: float) -> Image.Image:
    """Cut by these shares of each side."""
    width, height = image.size
    box = (left * width, top * height, width * (1 - right), height * (1 - bottom))
    return image.crop(tuple(round(value) for value in box))


def save(folder: Path, pictures: dict[str, Image.Image], captions: dict[str, str] | None = None) -> Path:
    """Writes the pictures and, with ``captions``, a metadata.csv; a picture without one is described."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in pictures.items():
        image.save(folder / name)
    if captions is not None:
        with (folder / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(("file_name", "text"))
            for name in pictures:
                rows.writerow((name, captions.get(name, f"sks, number {name} of many shapes, plain")))
    return folder
