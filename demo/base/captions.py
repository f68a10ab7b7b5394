"""Captions for training the base: not only the plain grammar, so that other wordings do not derail it."""

from __future__ import annotations

import random
from collections.abc import Sequence

from demo.world import COLOURS, GROUNDS, KINDS, PLACES, TIMES, WEATHERS, Scene, describe

# What a caption can tell, as classes; index 0 is "not said".
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    **{f"kind {place}": KINDS for place in PLACES},
    **{f"colour {place}": COLOURS for place in PLACES},
    "ground": GROUNDS,
    "weather": WEATHERS,
    "time": TIMES,
}


def labels(scene: Scene) -> list[int]:
    """Class of every attribute, in the order of ATTRIBUTES."""
    by_place = {thing.place: thing for thing in scene.things}
    values = [by_place[place].kind if place in by_place else "" for place in PLACES]
    values += [by_place[place].colour if place in by_place else "" for place in PLACES]
    values += [scene.ground, scene.weather, scene.time]
    return [
        options.index(value) + 1 if value else 0
        for options, value in zip(ATTRIBUTES.values(), values, strict=True)
    ]


def strange_words(rng: random.Random, words: Sequence[str]) -> str:
    """A phrase that says nothing about the scene, such as a trigger word that comes later."""
    chosen = [rng.choice(words) for _ in range(rng.randint(1, 3))]
    if rng.random() < 0.5:
        chosen.append("style")
    return " ".join(chosen)


def varied(
    scene: Scene, rng: random.Random, words: Sequence[str], *, omit: float, strange: float
) -> tuple[str, list[int]]:
    """A caption and what it says: parts left out with share `omit`, strange phrases with share `strange`."""
    parts = describe(scene, rng).split(", ")
    said = labels(scene)
    things, setting = parts[:-3], parts[-3:]
    for offset in range(3):
        if rng.random() < omit:
            setting[offset] = ""
            said[len(said) - 3 + offset] = 0
    setting = [part for part in setting if part]
    if rng.random() < 0.3:
        rng.shuffle(setting)
    parts = [*setting, *things] if rng.random() < 0.15 else [*things, *setting]
    if rng.random() < strange:
        parts.insert(0 if rng.random() < 0.5 else rng.randint(0, len(parts)), strange_words(rng, words))
    return ", ".join(parts), said
