"""Looks for training the captioner: it must name what is there, however that was drawn.

A `Look` is a handful of choices, `LookStyle` paints with them. What a caption tells stays readable in every
look: a night is dark, a sunset warm, and the seven colours keep their names.
"""

from __future__ import annotations

import colorsys
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from demo.draw import PAINT, Canvas, Colour, distance, mix
from demo.shapes import Part, backdrop, horizon, parts_of
from demo.world import Scene

if TYPE_CHECKING:
    from PIL import Image

WHITE: Colour = (255, 255, 255)
BLACK: Colour = (16, 16, 20)

_SKIES: dict[str, tuple[tuple[Colour, Colour], ...]] = {
    "day": (
        ((92, 168, 240), (206, 232, 250)),
        ((130, 206, 226), (232, 246, 240)),
        ((176, 200, 238), (250, 244, 226)),
        ((224, 236, 246), (250, 250, 246)),
        ((60, 140, 214), (150, 210, 246)),
    ),
    "sunset": (
        ((118, 84, 150), (255, 158, 84)),
        ((214, 96, 110), (255, 196, 110)),
        ((150, 70, 90), (250, 120, 70)),
        ((240, 170, 150), (255, 214, 150)),
        ((90, 50, 120), (244, 90, 110)),
    ),
    "night": (
        ((12, 16, 44), (40, 50, 96)),
        ((8, 10, 20), (30, 34, 52)),
        ((24, 12, 52), (62, 34, 96)),
        ((10, 30, 48), (26, 66, 92)),
    ),
}
_GROUNDS: dict[str, tuple[Colour, ...]] = {
    "street": ((104, 106, 112), (140, 134, 130), (78, 80, 92), (168, 164, 158)),
    "water": ((52, 122, 184), (44, 148, 170), (90, 150, 200), (30, 88, 150)),
    "field": ((112, 172, 82), (150, 184, 92), (84, 140, 74), (176, 198, 120)),
}
_MISTS: dict[str, Colour] = {"day": (222, 226, 230), "sunset": (238, 196, 170), "night": (82, 88, 108)}
_SHADES: dict[str, tuple[Colour, float]] = {
    "day": (WHITE, 0.0),
    "sunset": ((255, 150, 80), 0.12),
    "night": ((10, 14, 50), 0.3),
}
_ROLES: dict[str, Colour] = {
    "window": (150, 200, 226),
    "glass": (170, 214, 236),
    "door": (92, 62, 44),
    "trunk": (112, 76, 48),
    "roof": (104, 66, 58),
    "wheel": (30, 30, 34),
    "hub": (176, 178, 182),
    "lamp": (255, 240, 170),
    "sail": (246, 244, 234),
    "trim": (70, 72, 80),
}
_OWN = ("body", "shade", "light")


@dataclass(frozen=True)
class Look:
    """How to paint. `fill` is the share of a thing's paint in its shapes (the rest is what `paper` has);
    `edge` the width of outlines in pixels (0: none), drawn in the thing's own colour where `own_edge`."""

    palette: dict[str, Colour] = field(default_factory=lambda: dict(PAINT))
    skies: dict[str, tuple[Colour, Colour]] = field(
        default_factory=lambda: {time: choices[0] for time, choices in _SKIES.items()}
    )
    grounds: dict[str, Colour] = field(
        default_factory=lambda: {ground: choices[0] for ground, choices in _GROUNDS.items()}
    )
    roles: dict[str, Colour] = field(default_factory=lambda: dict(_ROLES))
    fill: float = 1.0
    paper: Colour = WHITE
    edge: float = 0.0
    own_edge: bool = False
    wash: float = 0.0
    """Share of paper in sky and ground."""
    details: bool = True
    roof_in_colour: bool = False


def _shifted(colour: Colour, rng: random.Random, hue: float, loose: float) -> Colour:
    """A neighbour of a colour: hue moved by up to `hue` (0 to 1), saturation and value scaled."""
    h, s, v = colorsys.rgb_to_hsv(*(channel / 255 for channel in colour))
    h = (h + rng.uniform(-hue, hue)) % 1
    s = min(1.0, s * rng.uniform(1 - loose, 1 + loose / 2))
    v = min(1.0, v * rng.uniform(1 - loose, 1 + loose / 2))
    red, green, blue = (round(channel * 255) for channel in colorsys.hsv_to_rgb(h, s, v))
    return red, green, blue


def pastel(rng: random.Random) -> Look:
    """Everything softened with white, no outlines."""
    share = rng.uniform(0.2, 0.4)
    return Look(
        palette={name: mix(paint, WHITE, share) for name, paint in PAINT.items()},
        fill=1.0,
        wash=rng.uniform(0.15, 0.35),
    )


def ink(rng: random.Random) -> Look:
    """Full colours within black outlines, as in a comic."""
    return Look(edge=rng.uniform(0.8, 1.8), roof_in_colour=rng.random() < 0.3)


def pencil(rng: random.Random) -> Look:
    """Coloured outlines, thinly filled, on light paper."""
    return Look(
        fill=rng.uniform(0.25, 0.5),
        paper=_shifted((244, 240, 230), rng, 0.03, 0.05),
        edge=rng.uniform(1.2, 2.2),
        own_edge=True,
        wash=rng.uniform(0.25, 0.5),
        roof_in_colour=rng.random() < 0.5,
    )


def poster(rng: random.Random) -> Look:
    """Few flat, strong colours: everything on a thing in one tone, no details."""
    return Look(
        palette={name: _shifted(paint, rng, 0.012, 0.1) for name, paint in PAINT.items()},
        roles=dict.fromkeys(_ROLES, _shifted((60, 56, 66), rng, 0.5, 0.4)),
        details=rng.random() < 0.5,
        roof_in_colour=rng.random() < 0.5,
    )


def mixed(rng: random.Random) -> Look:
    """Any choice for everything."""
    return Look(
        palette={name: _shifted(paint, rng, 0.016, 0.25) for name, paint in PAINT.items()},
        skies={
            time: (_shifted(upper, rng, 0.02, 0.15), _shifted(lower, rng, 0.02, 0.15))
            for time, (upper, lower) in ((time, rng.choice(choices)) for time, choices in _SKIES.items())
        },
        grounds={
            ground: _shifted(rng.choice(choices), rng, 0.03, 0.2) for ground, choices in _GROUNDS.items()
        },
        roles={role: _shifted(paint, rng, 0.08, 0.3) for role, paint in _ROLES.items()},
        fill=rng.choice((1.0, 1.0, 1.0, rng.uniform(0.3, 0.9))),
        paper=rng.choice((WHITE, (240, 232, 214), (26, 26, 36))),
        edge=rng.choice((0.0, 0.0, rng.uniform(0.6, 2.2))),
        own_edge=rng.random() < 0.5,
        wash=rng.choice((0.0, 0.0, rng.uniform(0.05, 0.3))),
        details=rng.random() < 0.85,
        roof_in_colour=rng.random() < 0.3,
    )


def chalk(rng: random.Random) -> Look:
    """Thick light lines on a slate. Kept out of training: it shows what a look that is new costs."""
    return Look(
        palette={name: mix(paint, WHITE, 0.25) for name, paint in PAINT.items()},
        fill=rng.uniform(0.05, 0.15),
        paper=(38, 48, 46),
        edge=rng.uniform(1.6, 2.4),
        own_edge=True,
        wash=rng.uniform(0.35, 0.5),
    )


class LookStyle:
    """Paints a scene in a `Look`."""

    name = "look"

    def __init__(self, look: Look) -> None:
        self.look = look

    def paint(self, scene: Scene) -> Image.Image:
        canvas = Canvas(scene.width, scene.height)
        self._sky(canvas, scene)
        self._ground(canvas, scene)
        for thing in sorted(scene.things, key=lambda t: t.kind in ("car", "boat")):
            for part in parts_of(thing, scene):
                self._part(canvas, part, thing.colour, scene)
        self._weather(canvas, scene)
        return canvas.finish()

    def _lit(self, colour: Colour, scene: Scene) -> Colour:
        colour = mix(colour, *_SHADES[scene.time])
        return mix(colour, _MISTS[scene.time], 0.3) if scene.weather == "fog" else colour

    def _washed(self, colour: Colour) -> Colour:
        return mix(colour, self.look.paper, self.look.wash)

    def _part(self, canvas: Canvas, part: Part, colour: str, scene: Scene) -> None:
        look = self.look
        own = part.role in _OWN or (look.roof_in_colour and part.role == "roof")
        if part.role not in (*_OWN, "roof", "sail", "trunk", "wheel") and not look.details:
            return
        paint = look.palette[colour] if own else look.roles[part.role]
        if part.role == "shade":
            paint = mix(paint, (20, 20, 40), 0.24)
        elif part.role == "light":
            paint = mix(paint, WHITE, 0.3)
        if scene.time == "night" and part.role in ("window", "lamp"):
            paint = (255, 220, 110)
        elif scene.weather == "snow" and part.role == "roof" and not own:
            paint = (244, 247, 252)
        edge = None
        if look.edge and part.role not in ("shade", "light"):
            dark = sum(look.paper) < 300
            edge = BLACK if not look.own_edge else paint if dark else mix(paint, BLACK, 0.25)
        canvas.part(
            part,
            self._lit(mix(look.paper, paint, look.fill), scene),
            self._lit(edge, scene) if edge else None,
            look.edge,
        )

    def _sky(self, canvas: Canvas, scene: Scene) -> None:
        upper, lower = self.look.skies[scene.time]
        if scene.weather != "clear":
            grey = _MISTS[scene.time] if scene.weather == "fog" else mix(upper, (120, 124, 134), 0.6)
            upper, lower = mix(upper, grey, 0.7), mix(lower, grey, 0.6)
        upper, lower = self._washed(upper), self._washed(lower)
        canvas.gradient(0, horizon(scene) + 1, upper, lower)
        far = mix(lower, self._lit((90, 110, 140), scene), 0.35)
        distance(canvas, scene, upper, far, sun=(255, 236, 120))

    def _ground(self, canvas: Canvas, scene: Scene) -> None:
        line, width, height = horizon(scene), scene.width, scene.height
        snow = scene.weather == "snow"
        base = self.look.grounds[scene.ground]
        if snow and scene.ground != "water":
            base = mix(base, (240, 244, 250), 0.8 if scene.ground == "field" else 0.55)
        base = self._washed(self._lit(base, scene))
        canvas.gradient(line, height, base, mix(base, (20, 24, 40), 0.16))
        if scene.ground == "street":
            path = self._lit((240, 244, 250) if snow else mix(base, (220, 214, 200), 0.6), scene)
            canvas.box(0, line, width, line + (height - line) * 0.3, path)
            lane = line + (height - line) * 0.84
            for dash in range(-1, width // 20 + 1):
                canvas.box(dash * 20 + 8, lane, dash * 20 + 18, lane + 2, self._lit((240, 236, 214), scene))
            return
        ripples = backdrop(scene).ripples
        if scene.ground == "water":
            shore = self._lit((240, 244, 250) if snow else (206, 190, 140), scene)
            canvas.box(0, line, width, line + 4, shore)
            for x, y, length in ripples:
                canvas.line(x, y, x + length, y, mix(base, WHITE, 0.28), 1.0)
        else:
            for x, y, length in ripples:
                canvas.line(x, y, x + length * 0.5, y, mix(base, (30, 60, 20), 0.22), 1.4)

    def _weather(self, canvas: Canvas, scene: Scene) -> None:
        decoration = backdrop(scene)
        if scene.weather == "rain":
            drop = mix((206, 222, 242), (90, 100, 140), 0.4 if scene.time == "night" else 0.0)
            for x, y, length in decoration.streaks:
                canvas.line(x, y, x - length * 0.35, y + length, drop, 1.0)
        elif scene.weather == "snow":
            for x, y, radius in decoration.flakes:
                canvas.disc(x, y, radius, (250, 252, 255))
