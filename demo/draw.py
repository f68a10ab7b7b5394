"""Painting a scene. `Style` is the small object that every look implements; `DayStyle` is the base's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from demo.shapes import Part, backdrop, horizon, parts_of
from demo.world import Scene

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

# Shapes are drawn this much larger and averaged down: Pillow itself does not smooth edges.
OVERSAMPLING = 3

Colour = tuple[int, int, int]

PAINT: dict[str, Colour] = {
    "red": (214, 40, 48),
    "orange": (242, 130, 28),
    "yellow": (246, 214, 48),
    "green": (46, 158, 68),
    "blue": (40, 96, 214),
    "purple": (146, 62, 186),
    "white": (242, 242, 240),
}


class Style(Protocol):
    """A look: `paint` returns an RGB picture of scene.width x scene.height."""

    name: str

    def paint(self, scene: Scene) -> Image.Image: ...


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """`a` moved towards `b` by `share` (0 to 1)."""
    red, green, blue = (round(x + (y - x) * share) for x, y in zip(a, b, strict=True))
    return red, green, blue


class Canvas:
    """A drawing surface in picture pixels that is oversampled underneath."""

    def __init__(self, width: int, height: int, fill: Colour = (0, 0, 0)) -> None:
        from PIL import Image, ImageDraw

        self.size = (width, height)
        self._image = Image.new("RGB", (width * OVERSAMPLING, height * OVERSAMPLING), fill)
        self._draw: ImageDraw.ImageDraw = ImageDraw.Draw(self._image)

    def gradient(self, top: float, bottom: float, upper: Colour, lower: Colour) -> None:
        """Vertical gradient over the full width between two heights."""
        rows = int(bottom - top) * OVERSAMPLING
        start, right = int(top) * OVERSAMPLING, self._image.width
        for row in range(rows):
            self._draw.line(
                ((0, start + row), (right, start + row)), fill=mix(upper, lower, row / max(1, rows - 1))
            )

    def part(
        self, part: Part, fill: Colour | None, outline: Colour | None = None, width: float = 1.0
    ) -> None:
        """Fill a part and, or draw its outline `width` pixels wide."""
        points = [(x * OVERSAMPLING, y * OVERSAMPLING) for x, y in part.points]
        stroke = max(1, round(width * OVERSAMPLING))
        if part.form == "ellipse":
            box = [*points[0], *points[1]]
            self._draw.ellipse(box, fill=fill, outline=outline, width=stroke if outline else 0)
            return
        if fill is not None:
            self._draw.polygon(points, fill=fill)
        if outline is not None:
            self._draw.line([*points, points[0], points[1]], fill=outline, width=stroke, joint="curve")

    def polygon(self, points: tuple[tuple[float, float], ...], fill: Colour) -> None:
        self.part(Part("", "polygon", points), fill)

    def box(self, x0: float, y0: float, x1: float, y1: float, fill: Colour) -> None:
        self.polygon(((x0, y0), (x1, y0), (x1, y1), (x0, y1)), fill)

    def disc(self, x: float, y: float, radius: float, fill: Colour) -> None:
        self.part(Part("", "ellipse", ((x - radius, y - radius), (x + radius, y + radius))), fill)

    def line(self, x0: float, y0: float, x1: float, y1: float, fill: Colour, width: float) -> None:
        s = OVERSAMPLING
        self._draw.line(((x0 * s, y0 * s), (x1 * s, y1 * s)), fill=fill, width=max(1, round(width * s)))

    def finish(self) -> Image.Image:
        """The picture at its real size."""
        from PIL import Image

        return self._image.resize(self.size, Image.Resampling.BOX)


_SKY: dict[str, tuple[Colour, Colour]] = {
    "day": ((92, 168, 240), (206, 232, 250)),
    "sunset": ((118, 84, 150), (255, 158, 84)),
    "night": ((12, 16, 44), (40, 50, 96)),
}
_GREY_SKY: dict[str, Colour] = {"day": (158, 168, 182), "sunset": (176, 128, 122), "night": (34, 38, 54)}
_MIST: dict[str, Colour] = {"day": (222, 226, 230), "sunset": (238, 196, 170), "night": (82, 88, 108)}
_LIGHT: dict[str, tuple[Colour, float]] = {
    "day": ((255, 255, 255), 0.0),
    "sunset": ((255, 150, 80), 0.12),
    "night": ((10, 14, 50), 0.32),
}
_GROUND: dict[str, Colour] = {"street": (104, 106, 112), "water": (52, 122, 184), "field": (112, 172, 82)}
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
_GLOWING: dict[str, Colour] = {"window": (255, 220, 110), "lamp": (255, 246, 180), "glass": (96, 124, 160)}


def distance(canvas: Canvas, scene: Scene, sky: Colour, far: Colour, sun: Colour) -> None:
    """What stands in a clear sky of colour ``sky``, and the skyline or hills in ``far``."""
    decoration = backdrop(scene)
    if scene.weather == "clear":
        x, y, radius = decoration.sun
        if scene.time == "night":
            for star_x, star_y in decoration.stars:
                canvas.disc(star_x, star_y, 0.8, (226, 230, 244))
            canvas.disc(x, y, radius, (240, 238, 214))
            canvas.disc(x + 3, y - 2, radius * 0.85, sky)
        elif scene.time == "sunset":
            canvas.disc(x, horizon(scene) - 9, 9, (255, 226, 120))
        else:
            canvas.disc(x, y, radius, sun)
    if scene.ground == "street":
        for box in decoration.skyline:
            canvas.box(*box, far)
    else:
        canvas.polygon(decoration.hills, far)


class DayStyle:
    """Flat, bright picture-book colours: the only look the base model knows."""

    name = "day"

    def paint(self, scene: Scene) -> Image.Image:
        canvas = Canvas(scene.width, scene.height)
        self._sky(canvas, scene)
        self._ground(canvas, scene)
        for thing in sorted(scene.things, key=lambda t: t.kind in ("car", "boat")):
            for part in parts_of(thing, scene):
                canvas.part(part, self._colour(part.role, thing.colour, scene))
        self._weather(canvas, scene)
        return canvas.finish()

    def _lit(self, colour: Colour, scene: Scene) -> Colour:
        tint, share = _LIGHT[scene.time]
        colour = mix(colour, tint, share)
        return mix(colour, _MIST[scene.time], 0.3) if scene.weather == "fog" else colour

    def _colour(self, role: str, colour: str, scene: Scene) -> Colour:
        paint = PAINT[colour]
        if scene.time == "night" and role in _GLOWING:
            return mix(_GLOWING[role], _MIST["night"], 0.3) if scene.weather == "fog" else _GLOWING[role]
        if scene.weather == "snow" and role == "roof":
            return self._lit((244, 247, 252), scene)
        if role == "body":
            return self._lit(paint, scene)
        if role == "shade":
            return self._lit(mix(paint, (20, 20, 40), 0.24), scene)
        if role == "light":
            return self._lit(mix(paint, (255, 255, 255), 0.3), scene)
        return self._lit(_ROLES[role], scene)

    def _sky(self, canvas: Canvas, scene: Scene) -> None:
        upper, lower = _SKY[scene.time]
        if scene.weather != "clear":
            grey = _MIST[scene.time] if scene.weather == "fog" else _GREY_SKY[scene.time]
            upper, lower = mix(upper, grey, 0.75), mix(lower, grey, 0.6)
        canvas.gradient(0, horizon(scene) + 1, upper, lower)
        far = mix(lower, self._lit((90, 110, 140), scene), 0.35)
        distance(canvas, scene, upper, far, sun=(255, 240, 140))

    def _ground(self, canvas: Canvas, scene: Scene) -> None:
        line, width, height = horizon(scene), scene.width, scene.height
        base = _GROUND[scene.ground]
        if scene.weather == "snow" and scene.ground != "water":
            base = mix(base, (240, 244, 250), 0.8 if scene.ground == "field" else 0.55)
        base = self._lit(base, scene)
        canvas.gradient(line, height, base, mix(base, (20, 24, 40), 0.16))
        if scene.ground == "street":
            path = self._lit((176, 172, 166) if scene.weather != "snow" else (240, 244, 250), scene)
            canvas.box(0, line, width, line + (height - line) * 0.3, path)
            lane = line + (height - line) * 0.84
            for dash in range(-1, width // 20 + 1):
                canvas.box(dash * 20 + 8, lane, dash * 20 + 18, lane + 2, self._lit((240, 236, 214), scene))
        elif scene.ground == "water":
            shore = (206, 190, 140) if scene.weather != "snow" else (240, 244, 250)
            canvas.box(0, line, width, line + 4, self._lit(shore, scene))
            for x, y, length in backdrop(scene).ripples:
                canvas.line(x, y, x + length, y, mix(base, (255, 255, 255), 0.28), 1.0)
        else:
            for x, y, length in backdrop(scene).ripples:
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
