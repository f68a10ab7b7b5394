"""Stage 3: the U-Net, Stable Diffusion 1.x in small, predicting noise on Stable Diffusion's schedule."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from demo.base.captions import varied
from demo.base.pictures import painted, scenes, to_float
from demo.base.progress import Averaged, cosine, load_state, save_state, track
from demo.base.text_encoder import WIDTH, known_words, tokenize
from demo.world import Scene

if TYPE_CHECKING:
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

CHANNELS = (48, 96, 192, 192)
PICTURES = 6000
SQUARE = 0.85
STEPS = 2600
BATCH = 16
RATE = 1e-3
EMPTY_SHARE = 0.1
LEAN = 0.6
SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}


def build() -> UNet2DConditionModel:
    """A fresh U-Net for 32 x 32 latents."""
    import torch
    from diffusers import UNet2DConditionModel

    torch.manual_seed(14)
    unet = UNet2DConditionModel(
        sample_size=32,
        in_channels=4,
        out_channels=4,
        block_out_channels=CHANNELS,
        down_block_types=(*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
        up_block_types=("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
        # Self-attention among the 1,024 pixels of the largest map would double the time of a step. The rest
        # of its transformer stays: without it a LoRA could not reach fine detail at all.
        only_cross_attention=(True, False, False, False),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=16,
    )
    with torch.no_grad():
        for name, value in unet.named_parameters():
            # Every branch starts silent, so that the first steps train a short, well-behaved network.
            if name.endswith(("conv2.weight", "proj_out.weight")):
                value.zero_()
        unet.conv_out.weight.zero_()
    return unet


@dataclass
class Store:
    """Latents of drawn scenes by shape, scaled as the U-Net sees them."""

    scenes: list[list[Scene]]
    latents: list[torch.Tensor]


def encode(vae: AutoencoderKL, work: Path, count: int = PICTURES, seed: int = 41) -> Store:
    """Draw and encode the training pictures; kept in `work`, since this takes minutes."""
    import torch
    from diffusers.models.attention_processor import AttnProcessor
    from safetensors.torch import load_file, save_file

    vae.set_attn_processor(AttnProcessor())
    groups: dict[tuple[int, int], list[Scene]] = {}
    for scene in scenes(count, seed, square=SQUARE):
        groups.setdefault((scene.width, scene.height), []).append(scene)
    path = work / "latents.safetensors"
    if path.exists():
        kept = load_file(path)
        return Store(list(groups.values()), [kept[f"{width}x{height}"] for width, height in groups])
    chunk = 25
    made: dict[str, list[torch.Tensor]] = {f"{width}x{height}": [] for width, height in groups}
    plan = [
        (f"{size[0]}x{size[1]}", group[start : start + chunk])
        for size, group in groups.items()
        for start in range(0, len(group), chunk)
    ]
    for index, _ in track(len(plan), "draw and encode"):
        key, part = plan[index]
        pixels = to_float(torch.stack([painted(scene) for scene in part]))
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            latents = vae.encode(pixels).latent_dist.mean.float() * vae.config.scaling_factor
        made[key].append(latents.half().contiguous())
    tensors = {key: torch.cat(parts).contiguous() for key, parts in made.items()}
    save_file(tensors, path)
    return Store(list(groups.values()), list(tensors.values()))


def text_states(tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel, texts: list[str]) -> torch.Tensor:
    """Hidden states (n, 77, width) as the pipeline computes them."""
    import torch

    with torch.no_grad():
        return text_encoder(tokenize(tokenizer, texts)).last_hidden_state


def train(
    work: Path,
    store: Store,
    tokenizer: CLIPTokenizer,
    text_encoder: CLIPTextModel,
    steps: int = STEPS,
) -> UNet2DConditionModel:
    """Train (or go on) and return the averaged U-Net."""
    import torch
    from diffusers import DDPMScheduler
    from diffusers.models.attention_processor import AttnProcessor

    unet = build()
    unet.set_attn_processor(AttnProcessor())
    optimizer = torch.optim.AdamW(unet.parameters(), RATE, betas=(0.9, 0.99), weight_decay=0.01)
    averaged = Averaged(unet, 0.998)
    state = work / "unet.safetensors"
    done = load_state(state, unet, averaged, optimizer)
    scheduler = DDPMScheduler(**SCHEDULE)
    ratio = scheduler.alphas_cumprod / (1 - scheduler.alphas_cumprod)
    # Steps of little noise have the largest losses and the least to teach (min-SNR weighting, 5).
    weights = ratio.clamp(max=5) / ratio
    words = known_words(tokenizer)
    sizes = [len(group) for group in store.scenes]
    smooth = 0.0
    for step, notes in track(steps, "u-net", done):
        rng = random.Random(70000 + step)
        generator = torch.Generator().manual_seed(70000 + step)
        shape = rng.choices(range(len(sizes)), sizes)[0]
        picks = rng.sample(range(sizes[shape]), BATCH)
        texts = [
            ""
            if rng.random() < EMPTY_SHARE
            else varied(store.scenes[shape][i], rng, words, omit=0.04, strange=0.25)[0]
            for i in picks
        ]
        clean = store.latents[shape][picks].float()
        noise = torch.randn(clean.shape, generator=generator)
        # One time step from each slice of the schedule: the same mean, less scatter. The slices lean towards
        # much noise, where it is decided what stands where and in which colour.
        share = (torch.arange(BATCH) + torch.rand(BATCH, generator=generator)) / BATCH
        times = (share**LEAN * 1000).long()
        noisy = scheduler.add_noise(clean, noise, times)
        for group in optimizer.param_groups:
            group["lr"] = RATE * cosine(step, steps, warmup=100)
        with torch.autocast("cpu", torch.bfloat16):
            guess = unet(noisy, times, text_states(tokenizer, text_encoder, texts)).sample
        loss = ((guess.float() - noise).square().mean((1, 2, 3)) * weights[times]).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        averaged.update(unet, step)
        smooth = loss.item() if step == done else 0.98 * smooth + 0.02 * loss.item()
        notes["loss"] = f"{smooth:.4f}"
        if (step + 1) % 100 == 0 or step + 1 == steps:
            save_state(state, step + 1, unet, averaged, optimizer)
    unet.load_state_dict(averaged.values)
    return unet.eval().requires_grad_(False)
