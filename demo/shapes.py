"""The geometry of things, free of style: named parts that every painter fills in its own way."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from demo.world import Scene, Thing

Point = tuple[float, float]


@dataclass(frozen=True)
class Part:
    """One filled shape. `role` says what it is (body, roof, window ...); `points` are in picture pixels.

    form "polygon" has three or more points; "ellipse" has two, the corners of its box.
    """

    role: str
    form: str
    points: tuple[Point, ...]


def unit(scene: Scene) -> float:
    """Pixels per design unit: things were designed for a 128-pixel square."""
    return min(scene.width / 128, scene.height / 112, 1.05)


def horizon(scene: Scene) -> float:
    """Where the ground begins, in pixels from the top."""
    return round(scene.height * 0.64)


def place_of(thing: Thing, scene: Scene) -> Point:
    """Foot point of a thing, in pixels."""
    x = {"left": 0.19, "middle": 0.5, "right": 0.81}[thing.place] + thing.shift
    line, height = horizon(scene), scene.height
    if thing.kind == "boat" or thing.kind == "car":
        y = line + (height - line) * 0.62
    elif scene.ground == "water":
        y = line + 3
    else:
        y = line + (height - line) * 0.22
    return x * scene.width, y


def parts_of(thing: Thing, scene: Scene) -> list[Part]:
    """Every part of a thing from back to front."""
    x, y = place_of(thing, scene)
    return _MAKERS[thing.kind](x, y, unit(scene) * thing.size)


def _box(role: str, x0: float, y0: float, x1: float, y1: float) -> Part:
    return Part(role, "polygon", ((x0, y0), (x1, y0), (x1, y1), (x0, y1)))


def _disc(role: str, x: float, y: float, rx: float, ry: float) -> Part:
    return Part(role, "ellipse", ((x - rx, y - ry), (x + rx, y + ry)))


def _tower(x: float, y: float, u: float) -> list[Part]:
    half, top = 12 * u, y - 66 * u
    parts = [
        _box("trim", x - 1.2 * u, top - 13 * u, x + 1.2 * u, top),
        _box("body", x - half * 0.6, top - 5 * u, x + half * 0.6, top + 1),
        _box("body", x - half, top, x + half, y),
        _box("shade", x + half * 0.45, top, x + half, y),
    ]
    for row in range(5):
        for column in (-7.5, -1.5, 4.5):
            left, up = x + column * u - 1.5 * u, top + (6 + row * 12) * u
            parts.append(_box("window", left, up, left + 4 * u, up + 6 * u))
    return parts


def _house(x: float, y: float, u: float) -> list[Part]:
    half, eaves = 17 * u, y - 21 * u
    return [
        _box("body", x - half, eaves, x + half, y),
        Part("roof", "polygon", ((x - half - 4 * u, eaves), (x, eaves - 17 * u), (x + half + 4 * u, eaves))),
        _box("window", x - 12 * u, eaves + 5 * u, x - 4 * u, eaves + 12 * u),
        _box("door", x + 3 * u, eaves + 6 * u, x + 11 * u, y),
    ]


def _tree(x: float, y: float, u: float) -> list[Part]:
    crown = y - 29 * u
    return [
        _box("trunk", x - 2.8 * u, y - 20 * u, x + 2.8 * u, y),
        _disc("body", x - 8 * u, crown + 4 * u, 10 * u, 10 * u),
        _disc("body", x + 8 * u, crown + 4 * u, 10 * u, 10 * u),
        _disc("body", x, crown - 5 * u, 12 * u, 12 * u),
        _disc("light", x - 4 * u, crown - 8 * u, 4 * u, 4 * u),
    ]


def _car(x: float, y: float, u: float) -> list[Part]:
    cabin = (
        (x - 12 * u, y - 10 * u),
        (x - 8 * u, y - 18 * u),
        (x + 6 * u, y - 18 * u),
        (x + 12 * u, y - 10 * u),
    )
    glass = (
        (x - 9 * u, y - 10 * u),
        (x - 6.5 * u, y - 16 * u),
        (x + 5 * u, y - 16 * u),
        (x + 9 * u, y - 10 * u),
    )
    return [
        _box("body", x - 20 * u, y - 11 * u, x + 20 * u, y - 2 * u),
        Part("body", "polygon", cabin),
        Part("glass", "polygon", glass),
        _box("body", x - 1.3 * u, y - 17 * u, x + 1.3 * u, y - 9 * u),
        _box("lamp", x + 17 * u, y - 9 * u, x + 20 * u, y - 6 * u),
        _disc("wheel", x - 11 * u, y - 2 * u, 4.6 * u, 4.6 * u),
        _disc("wheel", x + 11 * u, y - 2 * u, 4.6 * u, 4.6 * u),
        _disc("hub", x - 11 * u, y - 2 * u, 1.8 * u, 1.8 * u),
        _disc("hub", x + 11 * u, y - 2 * u, 1.8 * u, 1.8 * u),
    ]


def _boat(x: float, y: float, u: float) -> list[Part]:
    hull = (
        (x - 20 * u, y - 9 * u),
        (x + 20 * u, y - 9 * u),
        (x + 13 * u, y + 1 * u),
        (x - 13 * u, y + 1 * u),
    )
    return [
        _box("trunk", x - 1.3 * u, y - 38 * u, x + 1.3 * u, y - 8 * u),
        Part(
            "sail",
            "polygon",
            ((x + 2.5 * u, y - 36 * u), (x + 17 * u, y - 12 * u), (x + 2.5 * u, y - 12 * u)),
        ),
        Part(
            "sail",
            "polygon",
            ((x - 2.5 * u, y - 30 * u), (x - 2.5 * u, y - 12 * u), (x - 12 * u, y - 12 * u)),
        ),
        Part("body", "polygon", hull),
    ]


_MAKERS = {"tower": _tower, "house": _house, "tree": _tree, "car": _car, "boat": _boat}


@dataclass(frozen=True)
class Backdrop:
    """Uncaptioned decoration, decided by the scene's seed so that all styles share it."""

    sun: tuple[float, float, float]
    hills: tuple[Point, ...]
    skyline: tuple[tuple[float, float, float, float], ...]
    stars: tuple[Point, ...]
    streaks: tuple[tuple[float, float, float], ...]
    flakes: tuple[tuple[float, float, float], ...]
    ripples: tuple[tuple[float, float, float], ...]


def backdrop(scene: Scene) -> Backdrop:
    """Sun or moon (x, y, radius), hills, far skyline boxes, stars, rain, snow and ripples, in pixels."""
    rng = random.Random(scene.seed)
    width, height, line = scene.width, scene.height, horizon(scene)
    phase = rng.uniform(0, 2 * math.pi)
    hills = [(0.0, float(line))]
    for step in range(13):
        x = width * step / 12
        rise = 5 + 4 * math.sin(phase + step * 0.8) + 2 * math.sin(2.1 * phase + step * 1.7)
        hills.append((x, line - rise))
    hills.append((float(width), float(line)))
    skyline, x = [], -4.0
    while x < width:
        wide = rng.uniform(7, 14)
        skyline.append((x, line - rng.uniform(6, 20), x + wide, float(line)))
        x += wide
    area = width * height / 128**2
    return Backdrop(
        sun=(width * rng.choice((0.34, 0.66)) + rng.uniform(-4, 4), height * rng.uniform(0.1, 0.16), 6.5),
        hills=tuple(hills),
        skyline=tuple(skyline),
        stars=tuple((rng.uniform(0, width), rng.uniform(0, line * 0.8)) for _ in range(int(16 * area))),
        streaks=tuple(
            (rng.uniform(0, width + 8), rng.uniform(-6, height), rng.uniform(8, 12))
            for _ in range(int(28 * area))
        ),
        flakes=tuple(
            (rng.uniform(0, width), rng.uniform(0, height), rng.uniform(1.2, 1.9))
            for _ in range(int(42 * area))
        ),
        ripples=tuple(
            (rng.uniform(0, width), rng.uniform(line + 7, height - 2), rng.uniform(5, 12))
            for _ in range(int(14 * area))
        ),
    )
