"""Training pictures for the captioner: many looks, then what cameras, files and models do to pictures."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from demo.base.captions import labels
from demo.base.progress import track
from demo.captioner import looks
from demo.comparison import held_out
from demo.dataset import sets
from demo.draw import DayStyle
from demo.neon import NeonStyle
from demo.world import SIZES, Scene, sample_scene

if TYPE_CHECKING:
    import numpy
    from PIL import Image

SIDE = 96
COUNT, CHUNK = 60000, 3000
SEED = 5100

STYLES: dict[str, tuple[float, Callable[[random.Random, Scene], Image.Image]]] = {
    "day": (18, lambda rng, scene: DayStyle().paint(scene)),
    "neon": (26, lambda rng, scene: NeonStyle().paint(scene)),
    "pastel": (7, lambda rng, scene: looks.LookStyle(looks.pastel(rng)).paint(scene)),
    "ink": (8, lambda rng, scene: looks.LookStyle(looks.ink(rng)).paint(scene)),
    "pencil": (9, lambda rng, scene: looks.LookStyle(looks.pencil(rng)).paint(scene)),
    "poster": (7, lambda rng, scene: looks.LookStyle(looks.poster(rng)).paint(scene)),
    "mixed": (25, lambda rng, scene: looks.LookStyle(looks.mixed(rng)).paint(scene)),
}
"""Share in training and painter of every look."""

UNSEEN_STYLE = "chalk"


def paint(style: str, scene: Scene, rng: random.Random) -> Image.Image:
    """The scene in one of STYLES or in UNSEEN_STYLE; `rng` makes the choices that a look leaves open."""
    if style == UNSEEN_STYLE:
        return looks.LookStyle(looks.chalk(rng)).paint(scene)
    return STYLES[style][1](rng, scene)


def worn(picture: Image.Image, rng: random.Random) -> Image.Image:
    """A copy with some of: a small crop, brightness, contrast, blur, coarse pixels, a JPEG's traces."""
    from PIL import Image, ImageEnhance, ImageFilter

    width, height = picture.size
    if rng.random() < 0.4:
        left, top, right, bottom = (rng.uniform(0, 0.05) for _ in range(4))
        box = (width * left, height * top, width * (1 - right), height * (1 - bottom))
        picture = picture.resize((width, height), Image.Resampling.BICUBIC, box=box)
    if rng.random() < 0.4:
        picture = ImageEnhance.Brightness(picture).enhance(rng.uniform(0.8, 1.2))
    if rng.random() < 0.3:
        picture = ImageEnhance.Contrast(picture).enhance(rng.uniform(0.8, 1.25))
    if rng.random() < 0.25:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.2)))
    elif rng.random() < 0.06:
        share = rng.uniform(0.5, 0.8)
        coarse = picture.resize((round(width * share), round(height * share)), Image.Resampling.BOX)
        picture = coarse.resize((width, height), Image.Resampling.NEAREST)
    if rng.random() < 0.25:
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=rng.randint(30, 90))
        picture = Image.open(file)
    return picture


def reserved() -> set[tuple]:
    """Contents that no training picture has: those of the demo's own pictures and prompts."""
    return {scene.content() for part in (*sets(), held_out()) for scene in part}


def sample(rng: random.Random) -> Scene:
    scene = sample_scene(rng)
    return scene.resized(*(SIZES[0] if rng.random() < 0.6 else rng.choice(SIZES[1:])))


def shrink(picture: Image.Image) -> numpy.ndarray:
    """uint8 (SIDE, SIDE, 3), as the processor of the finished captioner resizes."""
    import numpy
    from PIL import Image

    return numpy.asarray(picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def draw(work: Path, count: int = COUNT) -> tuple[list[numpy.ndarray], numpy.ndarray]:
    """Draw what is missing in `work`: chunks of uint8 (CHUNK, SIDE, SIDE, 3), memory-mapped, and all labels.

    The labels are (count, 9), classes as in `demo.base.captions.labels`.
    """
    import numpy

    folder = work / "pictures"
    folder.mkdir(parents=True, exist_ok=True)
    chunks = count // CHUNK
    left_out = reserved()
    for number, _ in track(chunks, "pictures"):
        path, known = folder / f"{number:03d}.npy", folder / f"{number:03d}_labels.npy"
        if known.exists():
            continue
        rng = random.Random(SEED + number)
        pixels = numpy.empty((CHUNK, SIDE, SIDE, 3), numpy.uint8)
        classes = numpy.empty((CHUNK, 9), numpy.uint8)
        styles = rng.choices(list(STYLES), [share for share, _ in STYLES.values()], k=CHUNK)
        for index, style in enumerate(styles):
            while (scene := sample(rng)).content() in left_out:
                pass
            pixels[index] = shrink(worn(paint(style, scene, rng), rng))
            classes[index] = labels(scene)
        numpy.save(path, pixels)
        numpy.save(known, classes)
    pixels_of = [
        numpy.load(folder / f"{number:03d}.npy", mmap_mode="r", allow_pickle=False)
        for number in range(chunks)
    ]
    classes_of = [
        numpy.load(folder / f"{number:03d}_labels.npy", allow_pickle=False) for number in range(chunks)
    ]
    return pixels_of, numpy.concatenate(classes_of)
