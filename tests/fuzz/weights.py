"""Tables of sound weights, as programs write them: bases in small, LoRAs in every layout."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

from lora_scripts.adapters.spec import match_targets
from lora_scripts.families._source import find, resolve

Table = dict[str, Any]


def entries(shapes: dict[str, tuple[int, ...]], kind: str = "F16", size: int = 2) -> Table:
    table: Table = {}
    at = 0
    for name in sorted(shapes):
        end = at + size * math.prod(shapes[name])
        table[name] = {"dtype": kind, "shape": list(shapes[name]), "data_offsets": [at, end]}
        at = end
    return table


def _block(start: str, width: int, context: int) -> dict[str, tuple[int, ...]]:
    made: dict[str, tuple[int, ...]] = {
        f"{start}norm.weight": (width,),
        f"{start}proj_in.weight": (width, width, 1, 1),
    }
    for leaf in ("attn1.to_q", "attn1.to_k", "attn2.to_q", "attn2.to_k", "attn2.to_v"):
        inner = context if leaf in ("attn2.to_k", "attn2.to_v") else width
        made[f"{start}transformer_blocks.0.{leaf}.weight"] = (width, inner)
    return made


def _unet(
    start: str, context: int, *, linear: bool = False, label: bool = False
) -> dict[str, tuple[int, ...]]:
    made: dict[str, tuple[int, ...]] = {
        f"{start}input_blocks.0.0.weight": (32, 4, 3, 3), f"{start}input_blocks.0.0.bias": (32,),
        f"{start}time_embed.0.weight": (128, 32), f"{start}out.2.weight": (4, 32, 3, 3),
        f"{start}input_blocks.1.0.in_layers.2.weight": (32, 32, 3, 3),
        f"{start}input_blocks.2.0.op.weight": (32, 32, 3, 3),
        f"{start}input_blocks.3.0.in_layers.2.weight": (64, 32, 3, 3),
        f"{start}middle_block.0.in_layers.2.weight": (64, 64, 3, 3),
    }  # fmt: skip
    made |= _block(f"{start}input_blocks.1.1.", 32, context) | _block(
        f"{start}input_blocks.3.1.", 64, context
    )
    if linear:
        made |= {n: s[:2] for n, s in made.items() if n.endswith("proj_in.weight")}
    if label:
        made[f"{start}label_emb.0.0.weight"] = (128, 256)
    return made


VAE: dict[str, tuple[int, ...]] = {
    "encoder.conv_in.weight": (32, 3, 3, 3), "decoder.conv_in.weight": (64, 4, 3, 3),
    "quant_conv.weight": (8, 8, 1, 1), "encoder.down.0.block.0.conv1.weight": (32, 32, 3, 3),
    "encoder.down.1.block.0.conv1.weight": (64, 32, 3, 3),
}  # fmt: skip
CLIP: dict[str, tuple[int, ...]] = {
    "text_model.embeddings.token_embedding.weight": (99, 64),
    "text_model.embeddings.position_embedding.weight": (77, 64),
    "text_model.encoder.layers.0.self_attn.q_proj.weight": (64, 64),
    "text_model.encoder.layers.0.mlp.fc1.weight": (128, 64),
}  # fmt: skip
FLUX: dict[str, tuple[int, ...]] = {
    "model.diffusion_model.double_blocks.0.img_attn.qkv.weight": (96, 32),
    "model.diffusion_model.img_in.weight": (32, 64),
    "model.diffusion_model.single_blocks.0.linear1.weight": (224, 32),
    "model.diffusion_model.txt_in.weight": (32, 48),
    "model.diffusion_model.guidance_in.in_layer.weight": (32, 256),
    "model.diffusion_model.vector_in.in_layer.weight": (32, 64),
    "model.diffusion_model.double_blocks.0.img_attn.norm.query_norm.scale": (16,),
}  # fmt: skip
SD3: dict[str, tuple[int, ...]] = {
    "model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight": (192, 64),
    "model.diffusion_model.pos_embed": (1, 64, 64),
    "model.diffusion_model.x_embedder.proj.weight": (64, 16, 2, 2),
    "model.diffusion_model.context_embedder.weight": (64, 48),
    "model.diffusion_model.y_embedder.mlp.0.weight": (64, 96),
    "model.diffusion_model.final_layer.linear.weight": (64, 64),
}  # fmt: skip


def _lora() -> dict[str, dict[str, tuple[int, ...]]]:
    """LoRAs under each program's names, of layers that the built-in base has."""
    made: dict[str, dict[str, tuple[int, ...]]] = {}
    family, description, matched = demo()
    shapes = description.modules["unet"]
    few = matched["unet"][:6]
    kohya, diffusers, processor, pti = {}, {}, {}, {}
    for number, module in enumerate(few):
        out, width = shapes[module][:2]
        name = family.names("unet", module)
        kohya |= {
            f"{name}.lora_down.weight": (4, width),
            f"{name}.lora_up.weight": (out, 4),
            f"{name}.alpha": (),
        }
        diffusers |= {f"unet.{module}.lora_A.weight": (4, width), f"unet.{module}.lora_B.weight": (out, 4)}
        processor |= {
            f"{module}.processor.to_k_lora.down.weight": (4, width),
            f"{module}.processor.to_k_lora.up.weight": (out, 4),
        }
        pti |= {f"unet:{number}:down": (4, width), f"unet:{number}:up": (out, 4)}
    layer = "base_model.model.model.layers.0.self_attn.q_proj"
    peft = {f"{layer}.lora_A.weight": (4, 32), f"{layer}.lora_B.weight": (32, 4)}
    dora = kohya | {f"{family.names('unet', few[0])}.dora_scale": (shapes[few[0]][0], 1)}
    made |= {
        "kohya": kohya,
        "diffusers": diffusers,
        "processor": processor,
        "pti": pti,
        "peft": peft,
        "dora": dora,
    }
    return made


@cache
def demo() -> tuple[Any, Any, Any]:
    source = resolve("builtin:demo")
    family = find("auto", source)
    description = family.describe(source)
    return family, description, match_targets(family.sheet, description.modules, "auto")


@cache
def originals() -> tuple[tuple[str, Table], ...]:
    start = "model.diffusion_model."
    prefixed = {f"first_stage_model.{n}": s for n, s in VAE.items()}
    clip = {f"cond_stage_model.transformer.{n}": s for n, s in CLIP.items()}
    bases = {
        "sd15": _unet(start, 768) | prefixed | clip,
        "sd2": _unet(start, 1024, linear=True) | prefixed | clip,
        "sdxl": _unet(start, 2048, linear=True, label=True) | prefixed | clip,
        "unet alone": _unet("", 768),
        "flux": FLUX,
        "sd3": SD3,
        "vae": VAE,
        "clip": CLIP,
        "causal_lm": {"model.layers.0.self_attn.q_proj.weight": (8, 8), "model.embed_tokens.weight": (99, 8)},
        "embedding": {"<style>": (3, 768)},
        "embeddings": {"clip_l": (2, 768), "clip_g": (2, 1280)},
        "controlnet": {"control_model.input_hint_block.0.weight": (8, 3, 3, 3)},
        "empty": {},
    }
    made = [(name, entries(shapes)) for name, shapes in bases.items()]
    made += [(f"lora {name}", entries(shapes, "F32", 4)) for name, shapes in _lora().items()] * 3
    return tuple(made)
