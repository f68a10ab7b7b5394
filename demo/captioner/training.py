"""Training: what a caption says, word by word, and beside it the attributes read straight off the picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from demo.base.captions import ATTRIBUTES
from demo.base.progress import Averaged, cosine, load_state, save_state, track
from demo.captioner.model import build, build_readers
from demo.captioner.pictures import CHUNK, COUNT, draw
from demo.captioner.words import encode
from demo.world import PLACES, Scene, Thing

if TYPE_CHECKING:
    import numpy
    import torch
    from transformers import BertTokenizer, BlipForConditionalGeneration

STEPS = 3200
BATCH = 64
TOLD = 32
"""Pictures of a batch whose captions are learnt; the attributes of all are, which costs less."""
RATE = 1e-3
SEED = 81000


def scene_of(classes: list[int]) -> Scene:
    """The scene that `demo.base.captions.labels` turned into classes."""
    said = [
        options[number - 1] if number else ""
        for options, number in zip(ATTRIBUTES.values(), classes, strict=True)
    ]
    things = [
        Thing(kind, colour, place)
        for kind, colour, place in zip(said[:3], said[3:6], PLACES, strict=True)
        if kind
    ]
    return Scene(tuple(things), *said[6:])


def mirrored(classes: numpy.ndarray) -> numpy.ndarray:
    """Classes (n, 9) of the pictures seen in a mirror."""
    return classes[:, [2, 1, 0, 5, 4, 3, 6, 7, 8]]


def loosen(pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Floats (n, 3, h, w) in -1 ... 1, moved by up to 3 pixels, in other light, with some noise."""
    import torch
    from torch.nn import functional

    count, _, height, width = pixels.shape
    x, y = (int(value) for value in torch.randint(0, 7, (2,), generator=generator))
    padded = functional.pad(pixels, (3, 3, 3, 3), mode="replicate")
    pixels = padded[..., y : y + height, x : x + width]
    gain = 1 + 0.1 * (2 * torch.rand(count, 1, 1, 1, generator=generator) - 1)
    tint = 0.05 * torch.randn(count, 3, 1, 1, generator=generator)
    noise = 0.06 * torch.rand(count, 1, 1, 1, generator=generator)
    return pixels * gain + tint + noise * torch.randn(pixels.shape, generator=generator)


def error(pieces: Sequence[torch.Tensor], wanted: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy over attributes; `pieces` (n, classes) for each, `wanted` (n, attributes)."""
    import torch
    from torch.nn import functional

    losses = [functional.cross_entropy(piece, wanted[:, i]) for i, piece in enumerate(pieces)]
    return torch.stack(losses).mean()


def train(
    work: Path, tokenizer: BertTokenizer, steps: int = STEPS, count: int = COUNT
) -> BlipForConditionalGeneration:
    """Train (or go on from what `work` holds), then return the averaged weights."""
    import numpy
    import torch

    pixels, classes = draw(work, count)
    model = build(tokenizer)
    both = torch.nn.ModuleDict({"captioner": model, "readers": build_readers()})
    optimizer = torch.optim.AdamW(both.parameters(), RATE, betas=(0.9, 0.98), weight_decay=0.05)
    averaged = Averaged(both, 0.998)
    state = work / "captioner.safetensors"
    done = load_state(state, both, averaged, optimizer)
    widths = [len(options) + 1 for options in ATTRIBUTES.values()]
    smooth: list[float] = []
    for step, notes in track(steps, "captioner", done):
        generator = torch.Generator().manual_seed(SEED + step)
        picks = torch.randint(0, count, (BATCH,), generator=generator).tolist()
        turned = (torch.rand(BATCH, generator=generator) < 0.5).numpy()
        rows = numpy.stack([pixels[pick // CHUNK][pick % CHUNK] for pick in picks])
        rows[turned] = rows[turned, :, ::-1]
        known = classes[picks]
        known[turned] = mirrored(known[turned])
        batch = torch.from_numpy(rows).permute(0, 3, 1, 2).float() / 127.5 - 1
        batch = loosen(batch, generator)
        words = encode(tokenizer, [scene_of(row) for row in known[:TOLD].tolist()])
        wanted = torch.from_numpy(known).long()
        for group in optimizer.param_groups:
            group["lr"] = RATE * cosine(step, steps, warmup=200)
        with torch.autocast("cpu", torch.bfloat16):
            seen = model.vision_model(pixel_values=batch).last_hidden_state
            told = model.text_decoder(
                input_ids=words,
                attention_mask=(words != 0).long(),
                encoder_hidden_states=seen[:TOLD],
                labels=words.masked_fill(words == 0, -100),
            )
            pieces = both["readers"]["patches"](seen[:, 1:]).float().split(widths, 1)
            gathered = both["readers"]["first"](seen[:, 0]).float().split(widths, 1)
        read = error(pieces, wanted)
        first = error(gathered, wanted)
        (told.loss + read + first).backward()
        torch.nn.utils.clip_grad_norm_(both.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        averaged.update(both, step)
        now = [told.loss.item(), read.item(), first.item()]
        smooth = [0.97 * a + 0.03 * b for a, b in zip(smooth, now, strict=True)] if smooth else now
        notes["words"], notes["patches"], notes["first"] = (f"{value:.4f}" for value in smooth)
        if (step + 1) % 200 == 0 or step + 1 == steps:
            save_state(state, step + 1, both, averaged, optimizer)
    both.load_state_dict(averaged.values)
    return model.eval().requires_grad_(False)
