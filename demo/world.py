"""What is in a scene, and how a caption says it.

A `Scene` is content only: it knows no style. The painters (`demo.draw`, `demo.neon`) turn the same scene
into pictures of different looks, which is what lets the demo say "the style came, the content stayed".
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

KINDS = ("tower", "house", "tree", "car", "boat")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "white")
PLACES = ("left", "middle", "right")
WEATHERS = ("clear", "rain", "snow", "fog")
TIMES = ("day", "sunset", "night")
GROUNDS = ("street", "water", "field")

KINDS_ON = {
    "street": ("tower", "house", "tree", "car"),
    "water": ("tower", "house", "tree", "boat"),
    "field": ("tower", "house", "tree", "car"),
}

# A vehicle stands on one ground only, so an even draw over kinds would leave boats rare.
KIND_WEIGHTS = {"tower": 1.0, "house": 1.0, "tree": 1.0, "car": 1.2, "boat": 2.2}

SIZES = ((128, 128), (160, 96), (96, 160))

_SAYING = {
    "tower": ("tower", "tower", "tall tower"),
    "house": ("house", "house", "small house"),
    "tree": ("tree", "tree", "round tree"),
    "car": ("car", "car", "automobile"),
    "boat": ("boat", "boat", "sailing boat"),
    "left": ("on the left", "on the left", "on the left side"),
    "middle": ("in the middle", "in the middle", "in the center"),
    "right": ("on the right", "on the right", "on the right side"),
    "street": ("on a street", "city street", "street"),
    "water": ("by the water", "at a lake", "water"),
    "field": ("in a field", "green field", "field"),
    "clear": ("clear sky", "clear sky", "clear weather"),
    "rain": ("in the rain", "rain", "rainy"),
    "snow": ("in the snow", "snow", "snowy"),
    "fog": ("in the fog", "fog", "foggy"),
    "day": ("by day", "day", "daylight"),
    "sunset": ("at sunset", "sunset", "evening sun"),
    "night": ("at night", "night", "at night"),
    "purple": ("purple", "purple", "violet"),
}


@dataclass(frozen=True)
class Thing:
    """One object. `size` scales it (1.0 is usual), `shift` moves it sideways in shares of the width."""

    kind: str
    colour: str
    place: str
    size: float = 1.0
    shift: float = 0.0


@dataclass(frozen=True)
class Scene:
    """Everything a painter needs. `width` and `height` in pixels; `seed` decides uncaptioned decoration."""

    things: tuple[Thing, ...]
    ground: str
    weather: str
    time: str
    width: int = 128
    height: int = 128
    seed: int = 0

    def content(self) -> tuple:
        """What a caption can tell: two scenes with equal content may have the same caption."""
        things = tuple(sorted((t.place, t.kind, t.colour) for t in self.things))
        return things, self.ground, self.weather, self.time

    def resized(self, width: int, height: int) -> Scene:
        return replace(self, width=width, height=height)


def sample_scene(
    rng: random.Random,
    *,
    sizes: tuple[tuple[int, int], ...] = ((128, 128),),
    counts: tuple[int, ...] = (1, 2, 2, 3, 3),
) -> Scene:
    """Draw a scene: one to three things in different places, any colour, ground, weather and time."""
    width, height = rng.choice(sizes)
    ground = rng.choice(GROUNDS)
    places = rng.sample(PLACES, rng.choice(counts))
    kinds = KINDS_ON[ground]
    weights = [KIND_WEIGHTS[kind] for kind in kinds]
    things = tuple(
        Thing(
            kind=rng.choices(kinds, weights)[0],
            colour=rng.choice(COLOURS),
            place=place,
            size=rng.uniform(0.92, 1.06),
            shift=rng.uniform(-0.02, 0.02),
        )
        for place in sorted(places, key=PLACES.index)
    )
    weather = rng.choices(WEATHERS, (3, 2, 2, 1.5))[0]
    time = rng.choices(TIMES, (3, 2, 2))[0]
    return Scene(things, ground, weather, time, width, height, rng.randrange(2**31))


def describe(scene: Scene, rng: random.Random | None = None) -> str:
    """Caption of a scene. Without `rng` the plain wording in fixed order; with it synonyms and free order."""
    things = list(scene.things)
    if rng is not None:
        rng.shuffle(things)

    def say(word: str) -> str:
        options = _SAYING.get(word, (word,))
        return options[0] if rng is None else rng.choice(options)

    parts = []
    for thing in things:
        colour, kind = say(thing.colour), say(thing.kind)
        article = "an" if colour[0] in "aeiou" else "a"
        parts.append(f"{article} {colour} {kind} {say(thing.place)}")
    return ", ".join([*parts, say(scene.ground), say(scene.weather), say(scene.time)])


def parse(text: str) -> Scene | None:
    """Read a caption of this grammar back into a scene, or None: how checkers learn what was asked for."""
    words_to_value = {word: value for value, words in _SAYING.items() for word in words}
    ground = weather = time = None
    things: list[Thing] = []
    for part in (piece.strip() for piece in text.split(",")):
        value = words_to_value.get(part)
        if value in GROUNDS:
            ground = value
        elif value in WEATHERS:
            weather = value
        elif value in TIMES:
            time = value
        elif (thing := _parse_thing(part, words_to_value)) is not None:
            things.append(thing)
    if not things or ground is None or weather is None or time is None:
        return None
    return Scene(tuple(sorted(things, key=lambda t: PLACES.index(t.place))), ground, weather, time)


def _parse_thing(part: str, words_to_value: dict[str, str]) -> Thing | None:
    for phrase, place in words_to_value.items():
        if place in PLACES and part.endswith(" " + phrase):
            body = part.removesuffix(" " + phrase).split(" ", 2)
            if len(body) != 3 or body[0] not in ("a", "an"):
                continue
            colour = words_to_value.get(body[1], body[1])
            kind = words_to_value.get(body[2])
            if colour in COLOURS and kind in KINDS:
                return Thing(kind, colour, place)
    return None
