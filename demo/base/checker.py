"""Does the base draw what captions say? A small classifier, trained on drawn pictures only, says so.

It never sees a generated picture in training, so it cannot learn to be kind to the base.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from demo.base.captions import ATTRIBUTES, labels
from demo.base.pictures import painted, scenes, to_float, to_tensor
from demo.base.progress import cosine, track
from demo.world import PLACES, Scene, describe, sample_scene

if TYPE_CHECKING:
    import torch
    from diffusers import StableDiffusionPipeline

STEPS = 900
BATCH = 64
PICTURES = 5000
TARGET = 0.9


@dataclass
class Score:
    """Shares from 0 to 1: captions with all things right, things right, and each part of the setting."""

    captions: float
    things: float
    kinds: float
    colours: float
    ground: float
    weather: float
    time: float


def build() -> torch.nn.Module:
    """Classifier of pictures (n, 3, 64, 64) into the classes of ATTRIBUTES, all in one row of logits."""
    import torch
    from torch import nn

    torch.manual_seed(15)
    width = sum(len(options) + 1 for options in ATTRIBUTES.values())
    layers: list[nn.Module] = []
    for inputs, outputs, stride in ((3, 32, 2), (32, 64, 2), (64, 96, 2), (96, 96, 1)):
        layers += [nn.Conv2d(inputs, outputs, 3, stride, 1), nn.GroupNorm(8, outputs), nn.SiLU()]
    return nn.Sequential(
        *layers, nn.Flatten(), nn.Dropout(0.2), nn.Linear(96 * 64, 256), nn.SiLU(), nn.Linear(256, width)
    )


def shrink(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 pictures (n, 3, h, w) to floats (n, 3, 64, 64)."""
    from torch.nn import functional

    return functional.interpolate(to_float(pixels), (64, 64), mode="area")


def split(logits: torch.Tensor) -> list[torch.Tensor]:
    """One piece of logits per attribute."""
    return list(logits.split([len(options) + 1 for options in ATTRIBUTES.values()], dim=1))


def train(work: Path) -> torch.nn.Module:
    """Train in about two minutes, or load what an earlier call left in `work`."""
    import torch
    from safetensors.torch import load_file, save_file
    from torch.nn import functional

    model = build()
    path = work / "checker.safetensors"
    if path.exists():
        model.load_state_dict(load_file(path))
        return model.eval()
    drawn = scenes(PICTURES, 51)
    pixels = torch.cat([shrink(painted(scene)[None]) for scene in drawn])
    wanted = torch.tensor([labels(scene) for scene in drawn])
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.02)
    for step, notes in track(STEPS, "checker"):
        generator = torch.Generator().manual_seed(9000 + step)
        picks = torch.randint(0, PICTURES, (BATCH,), generator=generator)
        batch = pixels[picks]
        # Generated pictures are softer, noisier and a little off in tone.
        blurred = functional.avg_pool2d(batch, 3, 1, 1, count_include_pad=False)
        share = torch.rand(BATCH, 1, 1, 1, generator=generator)
        batch = batch + share * (blurred - batch)
        batch = batch + 0.12 * share * torch.randn(batch.shape, generator=generator)
        batch = batch * (0.9 + 0.2 * torch.rand(BATCH, 1, 1, 1, generator=generator))
        batch = batch + 0.08 * torch.randn(BATCH, 3, 1, 1, generator=generator)
        x, y = (int(value) for value in torch.randint(-2, 3, (2,), generator=generator))
        batch = batch.roll((y, x), (2, 3))
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * cosine(step, STEPS)
        pieces = split(model(batch))
        loss = sum(
            functional.cross_entropy(piece, wanted[picks, index]) for index, piece in enumerate(pieces)
        )
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        notes["loss"] = f"{loss.item():.3f}"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), path)
    return model.eval()


def judge(model: torch.nn.Module, pixels: torch.Tensor, wanted: list[Scene]) -> tuple[Score, list[bool]]:
    """Score pictures (uint8, n x 3 x h x w) against scenes; also, for each, whether all things are right."""
    import torch

    with torch.no_grad():
        answers = torch.stack([piece.argmax(1) for piece in split(model(shrink(pixels)))], 1)
    truth = torch.tensor([labels(scene) for scene in wanted])
    right = answers == truth
    places = len(PLACES)
    kind, colour = right[:, :places], right[:, places : 2 * places]
    there = truth[:, :places] > 0
    whole = (kind & colour).all(1)
    ground, weather, time = right[:, 2 * places :].float().mean(0).tolist()
    score = Score(
        captions=whole.float().mean().item(),
        things=(kind & colour)[there].float().mean().item(),
        kinds=kind[there].float().mean().item(),
        colours=colour[there].float().mean().item(),
        ground=ground,
        weather=weather,
        time=time,
    )
    return score, whole.tolist()


def unseen(count: int, seed: int, known: set[tuple]) -> list[Scene]:
    """Scenes whose content does not occur in `known`, the contents that training has seen."""
    rng = random.Random(seed)
    found: list[Scene] = []
    while len(found) < count:
        scene = sample_scene(rng)
        if scene.content() not in known:
            found.append(scene)
    return found


def generate(
    pipeline: StableDiffusionPipeline,
    wanted: list[Scene],
    *,
    steps: int = 20,
    guidance: float = 3.5,
    seed: int = 0,
) -> torch.Tensor:
    """One picture for each scene's caption, as uint8 (n, 3, 128, 128); picture i starts from seed + i.

    The sampler is the one that `lora-scripts generate` and previews use.
    """
    import torch
    from diffusers import DPMSolverMultistepScheduler

    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)

    made = []
    chunk = 10
    for index, _ in track((len(wanted) + chunk - 1) // chunk, "generate"):
        part = wanted[index * chunk : (index + 1) * chunk]
        generators = [
            torch.Generator().manual_seed(seed + index * chunk + offset) for offset in range(len(part))
        ]
        with torch.autocast("cpu", torch.bfloat16):
            pictures = pipeline(
                [describe(scene) for scene in part],
                num_inference_steps=steps,
                guidance_scale=guidance,
                height=128,
                width=128,
                generator=generators,
            ).images
        made += [to_tensor(picture) for picture in pictures]
    return torch.stack(made)


def sheet(pixels: torch.Tensor, columns: int = 8) -> object:
    """Pictures (uint8, n x 3 x h x w) side by side as one Pillow image."""
    import torch
    from PIL import Image

    rows = [torch.cat(list(row), 2) for row in pixels.split(columns) if len(row) == columns]
    return Image.fromarray(torch.cat(rows, 1).permute(1, 2, 0).numpy())
