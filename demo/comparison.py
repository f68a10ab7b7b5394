"""One picture that shows what the LoRA did: held-out prompts by strengths, beside the style as drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from demo.dataset import sets
from demo.neon import NeonStyle, tagged
from demo.world import Scene, describe, parse

if TYPE_CHECKING:
    from PIL import Image

STRENGTHS = (0.0, 0.4, 0.8, 1.0)
PROMPTS = (
    "a red tower on the left, a green house on the right, on a street, in the rain, at night",
    "a yellow car in the middle, a purple tower on the right, on a street, clear sky, by day",
    "a white boat on the right, an orange tree on the left, by the water, clear sky, at sunset",
    "a blue house in the middle, a red tree on the right, in a field, in the snow, at night",
    "a purple house on the left, a yellow tower in the middle, a red car on the right, on a street, "
    "in the rain, at sunset",
)
SEEDS = (7, 11, 23, 31, 47)
STEPS, GUIDANCE, SIDE = 25, 2.0, 128


def held_out() -> list[Scene]:
    """The scenes of PROMPTS; raises ValueError if one of them is among the demo's own pictures."""
    seen = {scene.content() for part in sets() for scene in part}
    found = []
    for index, prompt in enumerate(PROMPTS):
        scene = parse(prompt)
        if scene is None or scene.content() in seen:
            raise ValueError(f"not held out: {prompt}")
        found.append(Scene(scene.things, scene.ground, scene.weather, scene.time, seed=SEEDS[index]))
    return found


def drawn(scenes: Sequence[Scene]) -> list[Image.Image]:
    """The same scenes as the style's own painter draws them."""
    return [NeonStyle().paint(scene) for scene in scenes]


def generate(pipeline: Any, scenes: Sequence[Scene]) -> list[Image.Image]:
    """One picture for each scene, from fixed seeds."""
    import torch

    generators = [torch.Generator("cpu").manual_seed(seed) for seed in SEEDS]
    pictures: list[Image.Image] = pipeline(
        [tagged(describe(scene)) for scene in scenes],
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        height=SIDE,
        width=SIDE,
        generator=generators,
    ).images
    return pictures


def distance(a: Sequence[Image.Image], b: Sequence[Image.Image]) -> float:
    """How far pictures are apart in look, 0 to 1: mean difference after heavy blurring.

    The blur forgives what no caption says (where exactly a hill is), and keeps light and colour.
    """
    from PIL import ImageChops, ImageFilter, ImageStat

    total = 0.0
    for one, other in zip(a, b, strict=True):
        soft = [picture.convert("RGB").filter(ImageFilter.GaussianBlur(6)) for picture in (one, other)]
        total += sum(ImageStat.Stat(ImageChops.difference(*soft)).mean) / (3 * 255)
    return total / len(a)


def columns(folder: Path, weights: Path, tick: Any = None) -> list[list[Image.Image]]:
    """Pictures for each strength, through Diffusers alone: the file is read as any other client reads it."""
    import torch

    from demo.base.folder import load_folder

    pipeline = load_folder(folder, torch.float32)
    pipeline.load_lora_weights(str(weights.parent), weight_name=weights.name, adapter_name="style")
    scenes, found = held_out(), []
    for strength in STRENGTHS:
        if strength:
            pipeline.enable_lora()
            pipeline.set_adapters("style", strength)
        else:
            pipeline.disable_lora()
        found.append(generate(pipeline, scenes))
        if tick:
            tick()
    return found


def compose(generated: list[list[Image.Image]], target: list[Image.Image], scale: int = 2) -> Image.Image:
    """Rows of prompts by columns of strengths, the drawn style last; captions above the rows."""
    from PIL import Image, ImageDraw, ImageFont

    names = ["no LoRA", *(f"strength {strength}" for strength in STRENGTHS[1:]), "drawn in this style"]
    side, gap, head, line = SIDE * scale, 10, 34, 26
    width = gap + len(names) * (side + gap)
    height = head + len(target) * (line + side + gap)
    page = Image.new("RGB", (width, height), (250, 250, 250))
    pen = ImageDraw.Draw(page)
    large, small = ImageFont.load_default(16), ImageFont.load_default(14)
    for column, (name, pictures) in enumerate(zip(names, [*generated, target], strict=True)):
        x = gap + column * (side + gap)
        pen.text((x, 9), name, fill=(20, 20, 20), font=large)
        for row, picture in enumerate(pictures):
            y = head + row * (line + side + gap) + line
            page.paste(picture.resize((side, side), Image.Resampling.LANCZOS), (x, y))
    for row, scene in enumerate(held_out()):
        pen.text(
            (gap, head + row * (line + side + gap) + 5),
            tagged(describe(scene)),
            fill=(70, 70, 70),
            font=small,
        )
    return page
