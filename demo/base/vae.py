"""Stage 1: the autoencoder, three levels (one latent pixel per 4 x 4 picture pixels), four channels.

Plain initialisation needs hours before it passes colours through. So it starts close to a linear code:
the encoder as averaged luminance and chroma, the decoder as smooth enlargement, every residual at zero.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING

from demo.base.pictures import painted, random_shapes, scenes, to_float, to_tensor
from demo.base.progress import Averaged, cosine, load_state, save_state, track

if TYPE_CHECKING:
    import torch
    from diffusers import AutoencoderKL

CHANNELS = (32, 48, 96)
LATENT_NOISE = 0.05
STEPS = 2200
BATCH = 12
CROP = 64
LOG_VARIANCE = -12.0
RATE = 8e-4
PICTURES = 1500

# Rows turn RGB into brightness, blue-yellow and red-green, each scaled to about unit spread.
_CODE = ((0.6, 1.0, 0.4), (-0.8, -0.8, 1.6), (1.6, -1.4, -0.2))
# A pair of large opposite constants rules the norm's statistics, which makes it nearly linear.
_CONSTANT = 3.0


def build() -> AutoencoderKL:
    """A fresh autoencoder, near the linear code."""
    import torch
    from diffusers import AutoencoderKL

    torch.manual_seed(11)
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=CHANNELS,
        down_block_types=("DownEncoderBlock2D",) * len(CHANNELS),
        up_block_types=("UpDecoderBlock2D",) * len(CHANNELS),
        layers_per_block=1,
        norm_num_groups=1,
        sample_size=128,
        scaling_factor=1.0,
    )
    with torch.no_grad():
        _start_linear(vae)
    return vae


def _start_linear(vae: AutoencoderKL) -> None:
    import torch
    from diffusers.models.attention import Attention
    from diffusers.models.resnet import ResnetBlock2D

    def pass_through(conv: torch.nn.Conv2d, kernel: torch.Tensor, width: int) -> None:
        conv.weight[:width] *= 0.0
        conv.bias.zero_()
        for channel in range(width):
            conv.weight[channel, channel] = kernel

    for module in vae.modules():
        if isinstance(module, ResnetBlock2D):
            module.conv2.weight.zero_()
            module.conv2.bias.zero_()
            if module.conv_shortcut is not None:
                pass_through(module.conv_shortcut, torch.ones(1, 1), 10)
        if isinstance(module, Attention):
            # Left at zero for good: trained on crops it would not carry over to whole pictures.
            module.to_out[0].weight.zero_()
            module.to_out[0].bias.zero_()
            module.requires_grad_(False)
    box = torch.zeros(3, 3)
    box[:2, :2] = 0.25
    smooth = torch.tensor([0.25, 0.5, 0.25])
    code = torch.tensor(_CODE)
    centre = torch.zeros(3, 3)
    centre[1, 1] = 1.0

    encoder, decoder = vae.encoder, vae.decoder
    conv = encoder.conv_in
    conv.weight[:10].zero_()
    conv.bias.zero_()
    for row in range(3):
        for rgb in range(3):
            conv.weight[2 * row, rgb, 1, 1] = code[row, rgb]
            conv.weight[2 * row + 1, rgb, 1, 1] = -code[row, rgb]
    # The fourth pair starts as a sideways brightness edge, which the averaged three have lost.
    conv.weight[6, :, 1, 1], conv.weight[6, :, 1, 2] = 1.0, -1.0
    conv.weight[7] = -conv.weight[6]
    conv.bias[8], conv.bias[9] = _CONSTANT, -_CONSTANT
    for block in encoder.down_blocks:
        for sampler in block.downsamplers or ():
            pass_through(sampler.conv, box, 10)
    spread = _CONSTANT * (2 / CHANNELS[-1]) ** 0.5 * 1.3
    encoder.conv_out.weight.zero_()
    encoder.conv_out.bias.zero_()
    for row in range(4):
        encoder.conv_out.weight[row, 2 * row] = centre * spread
        encoder.conv_out.weight[row, 2 * row + 1] = -centre * spread
    encoder.conv_out.bias[4:] = 2 * torch.log(torch.tensor(LATENT_NOISE))
    for conv in (vae.quant_conv, vae.post_quant_conv):
        conv.weight.copy_(torch.eye(conv.weight.shape[0])[:, :, None, None])
        conv.bias.zero_()

    conv = decoder.conv_in
    conv.weight[:10].zero_()
    conv.bias.zero_()
    for row in range(4):
        conv.weight[2 * row, row], conv.weight[2 * row + 1, row] = centre, -centre
    conv.bias[8], conv.bias[9] = _CONSTANT, -_CONSTANT
    for block in decoder.up_blocks:
        for sampler in block.upsamplers or ():
            pass_through(sampler.conv, torch.outer(smooth, smooth), 10)
    spread = _CONSTANT * (2 / CHANNELS[0]) ** 0.5 * 1.3
    decoder.conv_out.weight.zero_()
    decoder.conv_out.bias.zero_()
    inverse = torch.linalg.inv(code)
    for rgb in range(3):
        for row in range(3):
            decoder.conv_out.weight[rgb, 2 * row] = centre * inverse[rgb, row] * spread
            decoder.conv_out.weight[rgb, 2 * row + 1] = -centre * inverse[rgb, row] * spread


def gather(count: int = PICTURES, seed: int = 21) -> torch.Tensor:
    """uint8 (2 x count, 3, 128, 128): half scenes in the base's look, half random shapes."""
    import torch

    rng = random.Random(seed)
    stack = [painted(scene) for scene in scenes(count, seed)]
    stack += [to_tensor(random_shapes(rng)) for _ in range(count)]
    return torch.stack(stack)


def loss_of(vae: AutoencoderKL, pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Absolute error of colours, of chroma once more, and of edges: the last is what makes shapes crisp."""
    import torch

    latents = vae.encode(pixels).latent_dist.mean
    noisy = latents + LATENT_NOISE * torch.randn(latents.shape, generator=generator)
    made = vae.decode(noisy).sample.float()
    wrong = made - pixels
    chroma = wrong - wrong.mean(1, keepdim=True)
    across = wrong[..., 1:] - wrong[..., :-1]
    along = wrong[..., 1:, :] - wrong[..., :-1, :]
    edges = across.abs().mean() + along.abs().mean()
    return wrong.abs().mean() + chroma.abs().mean() + edges + 1e-3 * latents.float().square().mean()


def train(work: Path, steps: int = STEPS) -> AutoencoderKL:
    """Train (or go on), then return the averaged weights with the latents brought to mean 0, spread 1."""
    import torch
    from diffusers.models.attention_processor import AttnProcessor

    vae = build()
    vae.set_attn_processor(AttnProcessor())
    trained = [value for value in vae.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(trained, RATE, betas=(0.9, 0.99), weight_decay=1e-4)
    averaged = Averaged(vae, 0.998)
    state = work / "vae.safetensors"
    done = load_state(state, vae, averaged, optimizer)
    pixels = gather() if done < steps else None
    for step, notes in track(steps, "autoencoder", done):
        generator = torch.Generator().manual_seed(1000 + step)
        picks = torch.randint(0, len(pixels), (BATCH,), generator=generator).tolist()
        corners = torch.randint(0, 128 - CROP + 1, (BATCH, 2), generator=generator).tolist()
        crops = [pixels[i, :, y : y + CROP, x : x + CROP] for i, (y, x) in zip(picks, corners, strict=True)]
        for group in optimizer.param_groups:
            group["lr"] = RATE * cosine(step, steps, warmup=300)
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(vae, to_float(torch.stack(crops)), generator)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        averaged.update(vae, step)
        notes["loss"] = f"{loss.item():.4f}"
        if (step + 1) % 200 == 0 or step + 1 == steps:
            save_state(state, step + 1, vae, averaged, optimizer)
    vae.load_state_dict(averaged.values)
    standardise(vae)
    return vae


def standardise(vae: AutoencoderKL, seed: int = 31) -> None:
    """Fold each latent channel's mean and spread into the two 1 x 1 convolutions: diffusion wants 0 and 1."""
    import torch

    with torch.no_grad():
        pixels = to_float(torch.stack([painted(scene) for scene in scenes(96, seed)]))
        latents = torch.cat([vae.encode(part).latent_dist.mean for part in pixels.split(16)])
        mean, spread = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
        quant, back = vae.quant_conv, vae.post_quant_conv
        quant.bias[:4] = (quant.bias[:4] - mean) / spread
        quant.weight[:4] /= spread[:, None, None, None]
        # the spread around the mean was never trained: trainers sample from it, so it must be next to nothing
        quant.weight[4:] = 0
        quant.bias[4:] = LOG_VARIANCE
        back.bias += back.weight[:, :, 0, 0] @ mean
        back.weight *= spread[None, :, None, None]
        latents = torch.cat([vae.encode(part).latent_dist.mean for part in pixels.split(16)])
    vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 5))


def psnr(vae: AutoencoderKL, pixels: torch.Tensor) -> float:
    """Reconstruction in dB of uint8 pictures (n, 3, h, w)."""
    import torch

    with torch.no_grad():
        wanted = to_float(pixels)
        made = torch.cat([vae.decode(vae.encode(part).latent_dist.mean).sample for part in wanted.split(8)])
    error = ((made.clamp(-1, 1) - wanted) / 2).square().mean((1, 2, 3))
    return (-10 * error.log10()).mean().item()
