"""What of a picture is learnt: where it is not transparent, or where the grey picture beside it is white."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from ..core.problems import Location, Problem
from .buckets import Placement, cut
from .folder import PictureFolder, loose_name
from .manifest import Example
from .pixels import BadPicture, Picture, open_alpha, open_picture
from .text_files import listing, printable

SHAPE_TOLERANCE = 0.02
"""How far a mask's ratio of sides may be from its picture's: rounding of a scaled copy."""


@dataclass(frozen=True, slots=True)
class Mask:
    """Where to find a picture's mask; ``sha256`` of the file that it is read from."""

    kind: Literal["alpha", "file"]
    path: Path
    sha256: str

    def open(self) -> Image.Image:
        """Mode L, upright, white where the picture is learnt. Raises ``BadPicture``."""
        if self.kind == "alpha":
            return open_alpha(self.path)
        return open_picture(self.path)[0].convert("L")


def fitted(mask: Image.Image, placement: Placement, factor: int) -> np.ndarray:
    """A mask as weights of latents: float32 (height / factor, width / factor), 0 to 1, averaged over area."""
    shape = (placement.bucket.width // factor, placement.bucket.height // factor)
    scaled = cut(mask, placement, shape, Image.Resampling.BOX)
    return np.asarray(scaled, dtype=np.float32) / 255


def find_masks(
    pictures: Sequence[tuple[Example, Picture]], where: str
) -> tuple[dict[str, Mask], list[Problem]]:
    """Name of each picture -> its mask, and what is wrong with them. ``where``: ``alpha`` or a folder.

    A picture without one, or with one that hides nothing, is learnt whole and has none here. Every mask is
    decoded once.
    """
    if where == "alpha":
        masks = {
            str(example.fields["name"]): Mask("alpha", picture.path, picture.sha256)
            for example, picture in pictures
        }
        problems: list[Problem] = []
    else:
        masks, problems = _of_folder(pictures, Path(where).expanduser())
    known = {str(example.fields["name"]): (picture.width, picture.height) for example, picture in pictures}
    sizes = [known[name] for name in masks]
    black, usable = [], {}
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1), thread_name_prefix="masks") as pool:
        for name, (found, extrema) in zip(masks, pool.map(_look, masks.values(), sizes), strict=True):
            if isinstance(found, Problem):
                problems.append(found)
                continue
            if extrema[1] == 0:
                black.append(name)
            if extrema[0] < 255:
                usable[name] = found
    if black:
        told = {"count": len(black), "names": listing(black)}
        problems.append(Problem("LS2422", told, Location(where) if where != "alpha" else None))
    return usable, problems


def _of_folder(
    pictures: Sequence[tuple[Example, Picture]], folder: Path
) -> tuple[dict[str, Mask], list[Problem]]:
    """Masks by the picture's name without its ending: in the same sub-folder, else anywhere."""
    if not folder.is_dir():
        return {}, [Problem("LS2420", {"folder": str(folder)}, Location(str(folder)))]
    scanned = PictureFolder.scan(folder)
    by_name = {_stem(name): path for name, path in scanned.pictures.items()}
    by_base = {os.path.basename(stem): path for stem, path in by_name.items()}
    found: dict[str, Mask] = {}
    without, problems = [], []
    for example, _ in pictures:
        name = str(example.fields["name"])
        path = by_name.get(_stem(name)) or by_base.get(os.path.basename(_stem(name)))
        if path is None:
            without.append(name)
            continue
        try:
            found[name] = Mask("file", path, open_picture(path)[1].sha256)
        except BadPicture as bad:
            problems.append(bad.problem)
    if without:
        told = {"count": len(without), "names": listing(without)}
        problems.append(Problem("LS2421", told, Location(str(folder)), "warning"))
    return found, problems


def _stem(name: str) -> str:
    return loose_name(os.path.splitext(name)[0])


def _look(mask: Mask, size: tuple[int, int]) -> tuple[Mask | Problem, tuple[int, int]]:
    """A mask that can be used, or why it cannot; and its darkest and lightest value."""
    width, height = size
    try:
        image = mask.open()
    except BadPicture as bad:
        return bad.problem, (0, 0)
    if abs(image.width * height / (image.height * width) - 1) > SHAPE_TOLERANCE:
        told = {
            "name": printable(mask.path.name),
            "mask": f"{image.width} x {image.height}",
            "picture": f"{width} x {height}",
        }
        return Problem("LS2424", told, Location(str(mask.path))), (0, 0)
    extrema: Any = image.getextrema()  # of one band: a pair of numbers
    low, high = extrema
    return mask, (int(low), int(high))
