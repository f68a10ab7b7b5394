"""What the small bases that read with T5 share: its encoder, its tokenizer in the published format, an
autoencoder with sixteen channels, and the original names of their transformers."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import torch

from tests.families import tiny

WIDTH = 32
VAE: dict[str, Any] = {
    **tiny.VAE,
    "latent_channels": 16,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
    "force_upcast": True,
}
T5: dict[str, Any] = {
    "d_model": WIDTH,
    "d_kv": 64,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 1,
    "vocab_size": 256,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
}
CLIP: dict[str, Any] = {**tiny.TEXT, "projection_dim": 64}


def encoder() -> Any:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(T5Config(**T5)).eval()


def tokenizer(length: int = 512) -> Any:
    """Pieces as SentencePiece has them: characters, and characters that begin a word."""
    from transformers import T5TokenizerFast

    letters = string.ascii_lowercase + string.ascii_uppercase + string.digits + ".,-'"
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -10.0), ("▁", -2.0)]
    pieces += [(letter, -3.0 - n / 100) for n, letter in enumerate(letters)]
    pieces += [(f"▁{letter}", -3.5 - n / 100) for n, letter in enumerate(letters)]
    words = ("▁red", "▁house", "▁city", "▁street", "▁night", "▁the", "▁of")
    pieces += [(word, -2.0 - n / 100) for n, word in enumerate(words)]
    return T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=length)


def spread(module: Any, seed: int, scale: float = 0.3) -> Any:
    """Random weights where a class starts from zeros, so that nothing is without effect, and a last layer
    that reaches the size of latents from normalised states, as a trained one does."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        module.proj_out.weight.mul_(4)
        for parameter in module.parameters():
            if not parameter.any():
                parameter.normal_(0, scale, generator=generator)
    return module


def original_rest(modules: dict[str, Any], vae_prefix: str) -> dict[str, torch.Tensor]:
    """The autoencoder under its original names."""
    vae = modules["vae"]
    names = tiny.original_vae(vae.state_dict(), len(vae.config.block_out_channels))
    return {f"{vae_prefix}{name}": tensor for name, tensor in names.items()}


def qkv(state: dict[str, torch.Tensor], names: list[str], leaf: str) -> torch.Tensor:
    return torch.cat([state[f"{name}.{leaf}"] for name in names])


def swapped(tensor: torch.Tensor) -> torch.Tensor:
    return torch.cat(list(reversed(tensor.chunk(2))))


def write_tokenizer(path: Path) -> Path:
    tokenizer().save_pretrained(path)
    return path
