"""A tiny Stable Diffusion 1.x with random weights: as a Diffusers folder, and the same as one original
file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

UNET: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": (32, 64),
    "layers_per_block": 2,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 64,
    "attention_head_dim": 8,
}
VAE: dict[str, Any] = {
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "latent_channels": 4,
    "sample_size": 16,
    "scaling_factor": 0.18215,
}
TEXT: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 1,
    "max_position_embeddings": 77,
    "vocab_size": 49408,
    "hidden_act": "quick_gelu",
    "bos_token_id": 49406,
    "eos_token_id": 49407,
    "pad_token_id": 49407,
}


# Stable Diffusion 2.x: linear projections, heads 64 wide, another activation in the text encoder.
UNET2: dict[str, Any] = {
    **UNET,
    "block_out_channels": (64, 128),
    "attention_head_dim": (1, 2),
    "use_linear_projection": True,
    "upcast_attention": True,
}
TEXT2: dict[str, Any] = {**TEXT, "hidden_act": "gelu", "pad_token_id": 0}


def parts(seed: int = 0, *, second: bool = False) -> dict[str, Any]:
    """The three modules, float32, weights drawn from ``seed``. ``second``: of a Stable Diffusion 2.x."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(seed)
    return {
        "unet": UNet2DConditionModel(**(UNET2 if second else UNET)).eval(),
        "vae": AutoencoderKL(**VAE).eval(),
        "text_encoder": CLIPTextModel(CLIPTextConfig(**(TEXT2 if second else TEXT))).eval(),
    }


def write_folder(path: Path, modules: dict[str, Any] | None = None, **scheduler: Any) -> Path:
    """A Diffusers folder, as ``save_pretrained`` writes it."""
    from diffusers import PNDMScheduler, StableDiffusionPipeline

    from lora_scripts.families._clip import tokenizer

    noise = PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        steps_offset=1,
        **scheduler,
    )
    modules = modules or parts()
    pipe = StableDiffusionPipeline(
        **modules,
        tokenizer=tokenizer(padding="!" if modules["unet"].config.use_linear_projection else "<|endoftext|>"),
        scheduler=noise,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.save_pretrained(path, safe_serialization=True)
    return path


def original_unet(state: dict[str, torch.Tensor], layers: int, levels: int) -> dict[str, torch.Tensor]:
    """Diffusers' U-Net names -> the original's, by the published correspondence of blocks."""
    plain = {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "add_embedding.linear_1": "label_emb.0.0",
        "add_embedding.linear_2": "label_emb.0.2",
        "conv_in": "input_blocks.0.0",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
    }
    inner = (
        (r"norm1", "in_layers.0"),
        (r"conv1", "in_layers.2"),
        (r"norm2", "out_layers.0"),
        (r"conv2", "out_layers.3"),
        (r"time_emb_proj", "emb_layers.1"),
        (r"conv_shortcut", "skip_connection"),
    )
    done = {}
    for name, tensor in state.items():
        owner, leaf = name.rsplit(".", 1)
        if owner in plain:
            done[f"{plain[owner]}.{leaf}"] = tensor
            continue
        kind, rest = name.split(".", 1)
        if kind == "mid_block":
            place, number, tail = rest.split(".", 2)
            slot = 1 if place == "attentions" else 2 * int(number)
            head, within = f"middle_block.{slot}", tail
        else:
            block, place, number, within = rest.split(".", 3)
            down = kind == "down_blocks"
            per = layers if down else layers + 1
            base = int(block) * (layers + 1) + (1 if down else 0)
            slot = base + (
                per if place == "downsamplers" else per - 1 if place == "upsamplers" else int(number)
            )
            if place == "downsamplers":
                head, within = f"input_blocks.{slot}.0", within.replace("conv", "op")
            elif place == "upsamplers":
                attends = any(n.startswith(f"up_blocks.{block}.attentions") for n in state)
                head = f"output_blocks.{slot}.{2 if attends else 1}"
            else:
                head = f"{'input' if down else 'output'}_blocks.{slot}.{1 if place == 'attentions' else 0}"
        if "resnets" in name:
            for new, old in inner:
                within = re.sub(rf"^{new}\b", old, within)
        done[f"{head}.{within}"] = tensor
    return done


def original_vae(state: dict[str, torch.Tensor], levels: int) -> dict[str, torch.Tensor]:
    done = {}
    for name, tensor in state.items():
        new = name
        new = re.sub(r"down_blocks\.(\d+)\.resnets\.(\d+)", r"down.\1.block.\2", new)
        new = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", new)
        new = re.sub(
            r"up_blocks\.(\d+)\.resnets\.(\d+)", lambda m: f"up.{levels - 1 - int(m[1])}.block.{m[2]}", new
        )
        new = re.sub(
            r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", new
        )
        new = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", new)
        new = new.replace("mid_block.attentions.0.group_norm", "mid.attn_1.norm")
        for ours, theirs in (("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")):
            new = new.replace(f"mid_block.attentions.0.{ours}", f"mid.attn_1.{theirs}")
        new = new.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
        done[new] = tensor[..., None, None] if ".mid.attn_1." in new and tensor.ndim == 2 else tensor
    return done


def open_clip(
    state: dict[str, torch.Tensor], config: Any, start: str = "cond_stage_model.model.", spare: int = 1
) -> dict[str, torch.Tensor]:
    """A text encoder in OpenCLIP's names, with its projection. Of a Stable Diffusion 2.x file it has a last
    layer that is not used (``spare``)."""
    width = config.hidden_size
    projection = state.get("text_projection.weight", torch.full((width, width), 7.0))
    state = {name.removeprefix("text_model."): tensor for name, tensor in state.items()}
    done = {
        f"{start}token_embedding.weight": state["embeddings.token_embedding.weight"],
        f"{start}positional_embedding": state["embeddings.position_embedding.weight"],
        f"{start}ln_final.weight": state["final_layer_norm.weight"],
        f"{start}ln_final.bias": state["final_layer_norm.bias"],
        f"{start}text_projection": projection.T,
        f"{start}logit_scale": torch.tensor(4.6),
    }
    count = config.num_hidden_layers
    pairs = (("layer_norm1", "ln_1"), ("layer_norm2", "ln_2"), ("self_attn.out_proj", "attn.out_proj"),
             ("mlp.fc1", "mlp.c_fc"), ("mlp.fc2", "mlp.c_proj"))  # fmt: skip
    for number in range(count + spare):
        layer, block = f"encoder.layers.{min(number, count - 1)}", f"{start}transformer.resblocks.{number}"
        for leaf in ("weight", "bias"):
            three = [state[f"{layer}.self_attn.{letter}_proj.{leaf}"] for letter in "qkv"]
            done[f"{block}.attn.in_proj_{leaf}"] = torch.cat(three)
            done |= {f"{block}.{theirs}.{leaf}": state[f"{layer}.{ours}.{leaf}"] for ours, theirs in pairs}
    return {n: torch.full_like(t, 7.0) if f".{count}." in n else t for n, t in done.items()}


def original_rest(modules: dict[str, Any], vae: bool) -> dict[str, torch.Tensor]:
    """What is beside the U-Net and the text encoder."""
    found = {"betas": torch.zeros(1000)}
    if vae:
        levels = len(modules["vae"].config.block_out_channels)
        found |= {
            f"first_stage_model.{n}": t for n, t in original_vae(modules["vae"].state_dict(), levels).items()
        }
    return found


def original_state(
    modules: dict[str, Any], *, text_model: bool = True, vae: bool = True
) -> dict[str, torch.Tensor]:
    """Everything under the names of a single Stable Diffusion 1.x file."""
    unet, text = modules["unet"], modules["text_encoder"]
    config = unet.config
    names = original_unet(unet.state_dict(), config.layers_per_block, len(config.block_out_channels))
    found = {f"model.diffusion_model.{n}": t for n, t in names.items()}
    if config.use_linear_projection:
        return found | original_rest(modules, vae) | open_clip(text.state_dict(), text.config)
    inner = "text_model." if text_model else ""
    for name, tensor in text.state_dict().items():
        found[f"cond_stage_model.transformer.{inner}{name.removeprefix('text_model.')}"] = tensor
    found[f"cond_stage_model.transformer.{inner}embeddings.position_ids"] = torch.arange(77).unsqueeze(0)
    found |= original_rest(modules, vae)
    return {name: tensor.contiguous() for name, tensor in found.items()}


def write_single(
    path: Path,
    modules: dict[str, Any] | None = None,
    *,
    ema: bool = False,
    metadata: dict[str, str] | None = None,
    markers: tuple[str, ...] = (),
    **kwargs: Any,
) -> Path:
    """One ``.safetensors`` in the original layout. ``ema``: with flattened ``model_ema`` twins of the
    U-Net. ``markers``: empty keys that say what the base is."""
    state = {
        name: tensor.contiguous() for name, tensor in original_state(modules or parts(), **kwargs).items()
    }
    state |= {name: torch.zeros(0) for name in markers}
    if ema:
        state |= {
            "model_ema." + name.removeprefix("model.").replace(".", ""): torch.full_like(tensor, 7.0)
            for name, tensor in state.items()
            if name.startswith("model.diffusion_model.")
        }
    save_file(state, str(path), metadata)
    return path
