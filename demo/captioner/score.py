"""How often captions of unseen pictures are right: every thing's kind, colour and place, and the setting."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from demo.base.captions import labels
from demo.base.progress import track
from demo.captioner.pictures import paint, reserved, sample, worn
from demo.world import PLACES, Scene, parse

if TYPE_CHECKING:
    from PIL import Image

TARGET = 0.9
SEED = 990000


def unseen(
    style: str, count: int, known: set[tuple], seed: int = SEED
) -> tuple[list[Scene], list[Image.Image]]:
    """Scenes with contents not in `known`, and their pictures in a style; a third of them is worn."""
    rng = random.Random(seed)
    scenes: list[Scene] = []
    while len(scenes) < count:
        scene = sample(rng)
        if scene.content() not in known:
            scenes.append(scene)
    pictures = [paint(style, scene, rng) for scene in scenes]
    return scenes, [worn(picture, rng) if i % 3 == 2 else picture for i, picture in enumerate(pictures)]


def judge(captions: Sequence[str], scenes: Sequence[Scene]) -> dict[str, float]:
    """Shares from 0 to 1: pictures with all things right (none missing, none invented), and each attribute.

    Attributes of things are counted over the things that are there. A caption that cannot be read is wrong
    in everything.
    """
    right = {name: 0 for name in ("pictures", "places", "kinds", "colours", "ground", "weather", "time")}
    things = 0
    for caption, scene in zip(captions, scenes, strict=True):
        told = parse(caption)
        truth = labels(scene)
        said = labels(told) if told else [-1] * len(truth)
        hits = [a == b for a, b in zip(said, truth, strict=True)]
        there = [place for place in range(len(PLACES)) if truth[place]]
        things += len(there)
        right["pictures"] += all(hits[:6])
        right["places"] += sum(said[place] > 0 for place in there)
        right["kinds"] += sum(hits[place] for place in there)
        right["colours"] += sum(hits[3 + place] for place in there)
        for name, hit in zip(("ground", "weather", "time"), hits[6:], strict=True):
            right[name] += hit
    return {
        name: count / (things if name in ("places", "kinds", "colours") else len(scenes))
        for name, count in right.items()
    }


def captions_of(model: Any, processor: Any, pictures: Sequence[Image.Image], batch: int = 50) -> list[str]:
    """What the captioner says, through Transformers alone."""
    said: list[str] = []
    for number, _ in track((len(pictures) + batch - 1) // batch, "captions"):
        part = [picture.convert("RGB") for picture in pictures[number * batch : (number + 1) * batch]]
        tokens = model.generate(**processor(images=part, return_tensors="pt"), max_new_tokens=40)
        said += [text.strip() for text in processor.batch_decode(tokens, skip_special_tokens=True)]
    return said


def contents_of(classes: Any) -> set[tuple]:
    """Contents of the training pictures, from their classes, and of their mirror images."""
    from demo.captioner.training import mirrored, scene_of

    rows = [*classes.tolist(), *mirrored(classes).tolist()]
    return {scene_of(row).content() for row in rows} | reserved()
