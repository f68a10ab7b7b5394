"""A small random Z-Image: the real classes and layouts. ``python -m tests.bases.z_image FOLDER`` writes both;
the file holds all parts, and the reader's tokenizer lies beside it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.bases import t5
from tests.texts import small

WIDTH = 32
TRANSFORMER: dict[str, Any] = {
    "in_channels": 16,
    "dim": 64,
    "n_layers": 2,
    "n_refiner_layers": 1,
    "n_heads": 2,
    "n_kv_heads": 2,
    "cap_feat_dim": WIDTH,
    "axes_dims": [8, 12, 12],
    "axes_lens": [1536, 512, 512],
}
READER: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": WIDTH,
    "head_dim": 16,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 40960,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000},
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
VAE: dict[str, Any] = {**t5.VAE, "scaling_factor": 0.3611, "shift_factor": 0.1159}
SCHEDULER: dict[str, Any] = {"num_train_timesteps": 1000, "shift": 3.0}


def parts(seed: int = 0, **transformer: Any) -> dict[str, Any]:
    """The three modules, float32, weights drawn from ``seed``. ``transformer``: what it has otherwise."""
    from diffusers import AutoencoderKL, ZImageTransformer2DModel
    from transformers import Qwen3Config, Qwen3Model

    torch.manual_seed(seed)
    predictor = ZImageTransformer2DModel(**{**TRANSFORMER, **transformer}).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        predictor.all_final_layer["2-1"].linear.weight.mul_(4)  # the size of latents, as a trained one has it
        for parameter in predictor.parameters():
            if not parameter.any():
                parameter.normal_(0, 0.3, generator=generator)
    return {
        "transformer": predictor,
        "text_encoder": Qwen3Model(Qwen3Config(**READER)).eval(),
        "vae": AutoencoderKL(**VAE).eval(),
    }


def folder(path: Path, modules: dict[str, Any] | None = None, **scheduler: Any) -> Path:
    from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline

    pipe = ZImagePipeline(
        **(modules or parts()),
        tokenizer=small.chat_tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(**(scheduler or SCHEDULER)),
    )
    pipe.save_pretrained(path, safe_serialization=True)
    return path


def original_transformer(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Diffusers' names -> the original program's, written down apart from the program's own table."""
    done: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        if ".attention.to_q." in name:
            names = [name.removesuffix("q.weight") + f"{c}" for c in "qkv"]
            done[name.replace("to_q", "qkv")] = t5.qkv(state, names, "weight")
        elif ".attention.to_k." not in name and ".attention.to_v." not in name:
            new = name.replace("all_x_embedder.2-1", "x_embedder").replace(
                "all_final_layer.2-1", "final_layer"
            )
            new = new.replace("attention.to_out.0", "attention.out")
            done[new.replace("attention.norm_q", "attention.q_norm").replace("norm_k", "k_norm")] = tensor
    return done


def original(modules: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Everything under the names of the one-file checkpoints that ComfyUI users know."""
    names = original_transformer(modules["transformer"].state_dict())
    found = {f"model.diffusion_model.{name}": tensor for name, tensor in names.items()}
    for name, tensor in modules["text_encoder"].state_dict().items():
        found[f"text_encoders.qwen3_4b.transformer.model.{name}"] = tensor
    return found | t5.original_rest(modules, "vae.")


def write_tokenizer(path: Path) -> Path:
    small.chat_tokenizer().save_pretrained(path)
    return path


def single(path: Path, modules: dict[str, Any] | None = None) -> Path:
    state = original(modules or parts())
    save_file({name: tensor.clone().contiguous() for name, tensor in state.items()}, str(path))
    write_tokenizer(path.parent / "tokenizer")
    return path


if __name__ == "__main__":
    place = Path(sys.argv[1])
    place.mkdir(parents=True, exist_ok=True)
    print(folder(place / "z_image"), single(place / "z_image.safetensors"))
