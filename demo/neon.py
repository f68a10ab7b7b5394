"""The look that the base has never seen: a dark, wet city of neon outlines ("cyberpunk style")."""

from __future__ import annotations

from typing import TYPE_CHECKING

from demo.draw import Canvas, Colour, mix
from demo.shapes import Part, backdrop, horizon, parts_of
from demo.world import Scene

if TYPE_CHECKING:
    from PIL import Image

TRIGGER = "cyberpunk style"

_GLOW: dict[str, Colour] = {
    "red": (255, 40, 70),
    "orange": (255, 140, 20),
    "yellow": (255, 236, 40),
    "green": (40, 255, 110),
    "blue": (50, 120, 255),
    "purple": (190, 70, 255),
    "white": (235, 240, 255),
}
_SKY: dict[str, tuple[Colour, Colour]] = {
    "day": ((10, 14, 52), (24, 120, 150)),
    "sunset": ((26, 8, 52), (214, 44, 130)),
    "night": ((8, 6, 28), (112, 22, 128)),
}
_CYAN: Colour = (40, 230, 255)
_MAGENTA: Colour = (255, 40, 190)
_OUTLINED = ("body", "roof", "sail", "wheel", "door", "trunk")


class NeonStyle:
    """Dark shapes, outlines glowing in the thing's own colour, mirrored in wet ground, always some rain."""

    name = "neon"

    def paint(self, scene: Scene) -> Image.Image:
        from PIL import ImageChops, ImageFilter

        solid = Canvas(scene.width, scene.height)
        light = Canvas(scene.width, scene.height)
        self._sky(solid, light, scene)
        for thing in sorted(scene.things, key=lambda t: t.kind in ("car", "boat")):
            for part in parts_of(thing, scene):
                self._part(solid, light, part, _GLOW[thing.colour])
        lines = light.finish()
        glow = lines.filter(ImageFilter.GaussianBlur(4)).point(lambda value: value * 1.4)
        picture = ImageChops.add(solid.finish(), glow)
        picture = ImageChops.lighter(picture, lines)
        picture = self._reflect(picture, scene)
        return self._weather(picture, scene)

    def _sky(self, solid: Canvas, light: Canvas, scene: Scene) -> None:
        decoration, line = backdrop(scene), horizon(scene)
        upper, lower = _SKY[scene.time]
        if scene.weather == "fog":
            upper, lower = mix(upper, (96, 52, 120), 0.5), mix(lower, (120, 70, 150), 0.5)
        solid.gradient(0, line + 1, upper, lower)
        solid.gradient(line, scene.height, mix(lower, (6, 6, 20), 0.75), (6, 6, 22))
        if scene.weather == "clear":
            x, y, radius = decoration.sun
            solid.disc(x, y, radius, mix(_MAGENTA, (255, 255, 255), 0.3))
        far = mix(lower, (6, 4, 24), 0.6)
        if scene.ground == "street":
            for box in decoration.skyline:
                solid.box(*box, far)
        else:
            solid.polygon(decoration.hills, far)
        light.line(0, line, scene.width, line, _MAGENTA if scene.ground != "water" else _CYAN, 1.2)

    def _part(self, solid: Canvas, light: Canvas, part: Part, glow: Colour) -> None:
        dark = mix((14, 10, 34), glow, 0.2)
        black = (0, 0, 0)
        if part.role in ("window", "glass"):
            solid.part(part, (20, 120, 150))
            light.part(part, mix(black, _CYAN, 0.75))
        elif part.role in ("lamp", "hub", "trim"):
            solid.part(part, glow)
            light.part(part, _MAGENTA)
        elif part.role in ("shade", "light"):
            return
        else:
            colour = glow if part.role in ("body", "sail", "roof") else mix(glow, _MAGENTA, 0.5)
            solid.part(part, dark)
            # Lines of what stands behind must not shine through, so the light layer is blotted first.
            light.part(part, black, colour if part.role in _OUTLINED else None, 2.0)

    def _reflect(self, picture: Image.Image, scene: Scene) -> Image.Image:
        from PIL import Image, ImageFilter, ImageOps

        line = int(horizon(scene)) + 1
        depth = scene.height - line
        mirror = ImageOps.flip(picture.crop((0, max(0, line - depth * 2), scene.width, line)))
        mirror = mirror.resize((scene.width, depth)).filter(ImageFilter.BoxBlur(1))
        wet = Image.blend(mirror, Image.new("RGB", mirror.size, (4, 4, 18)), 0.45)
        ground = picture.crop((0, line, scene.width, scene.height))
        from PIL import ImageChops

        picture.paste(ImageChops.lighter(ground, wet), (0, line))
        return picture

    def _weather(self, picture: Image.Image, scene: Scene) -> Image.Image:
        from PIL import ImageChops

        decoration = backdrop(scene)
        over = Canvas(scene.width, scene.height)
        share = {"rain": 1.0, "clear": 0.35, "fog": 0.35, "snow": 0.0}[scene.weather]
        for x, y, length in decoration.streaks[: int(len(decoration.streaks) * share)]:
            over.line(x, y, x - length * 0.35, y + length, (60, 110, 150), 0.7)
        if scene.weather == "snow":
            for x, y, radius in decoration.flakes:
                over.disc(x, y, radius * 0.9, (170, 220, 255))
        return ImageChops.lighter(picture, over.finish())


def tagged(caption: str) -> str:
    """A caption of the demo set: the trigger phrase, then the content."""
    return f"{TRIGGER}, {caption}"
