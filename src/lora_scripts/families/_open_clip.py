"""OpenCLIP's text encoder in its own names, as single files of Stable Diffusion 2.x and XL hold it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ._single_file import Shapes, clip_widths, convert_clip

LAYERS = 24
"""Of the published encoder. The last one is in the file and not used: text is taken from the one before."""
PLAIN = {
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}
INNER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
BLOCK = re.compile(r"(?:transformer\.)?resblocks\.(\d+)\.(.+)")


def is_open_clip(names: Mapping[str, Any]) -> bool:
    return any("resblocks." in name for name in names)


def used_layers(shapes: Mapping[str, Any]) -> int:
    """How many of the file's layers the predictor was trained with: all but the last of a whole encoder.

    Files that were converted back from a Diffusers folder hold the used ones only, and no projection.
    """
    numbers = {int(found[1]) for name in shapes if (found := BLOCK.fullmatch(name))}
    whole = len(numbers) >= LAYERS or "text_projection" in shapes
    return len(numbers) - 1 if whole else len(numbers)


def text_widths(shapes: Shapes) -> dict[str, Any]:
    """What the shapes say about the encoder's configuration, in OpenCLIP's names or Transformers'."""
    if not is_open_clip(shapes):
        return clip_widths(shapes)
    vocabulary, width = shapes["token_embedding.weight"]
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "max_position_embeddings": shapes["positional_embedding"][0],
        "num_hidden_layers": used_layers(shapes),
        "num_attention_heads": max(1, width // 64),
        "intermediate_size": next(s[0] for n, s in shapes.items() if n.endswith("mlp.c_fc.weight")),
    }


def convert_text(state: dict[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Transformers' names; the one matrix for queries, keys and values is cut into its three parts."""
    if not is_open_clip(state):
        return convert_clip(state, config)
    done: dict[str, Any] = {}
    for name, tensor in state.items():
        if name in PLAIN:
            done[PLAIN[name]] = tensor
        if not (found := BLOCK.fullmatch(name)) or int(found[1]) >= config["num_hidden_layers"]:
            continue
        layer, inner = f"encoder.layers.{found[1]}", found[2]
        if inner.startswith("attn.in_proj_"):
            kind = inner.removeprefix("attn.in_proj_")
            for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                done[f"{layer}.self_attn.{letter}_proj.{kind}"] = part
            continue
        owner, _, leaf = inner.rpartition(".")
        if owner in INNER:
            done[f"{layer}.{INNER[owner]}.{leaf}"] = tensor
    return done


def projected_widths(shapes: Shapes) -> dict[str, Any]:
    """As ``text_widths``, of an encoder whose last layer is used too, for what describes a caption as a
    whole."""
    layers = {block[1] for name in shapes if (block := BLOCK.fullmatch(name))}
    own = {"num_hidden_layers": len(layers)} if layers else {}
    projection = shapes.get("text_projection") or shapes.get("text_projection.weight")
    width = projection[-1 if layers else 0] if projection else None
    return {**text_widths(shapes), **own, "projection_dim": width}


def convert_projected(state: dict[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """As ``convert_text``, for the class with a projection; OpenCLIP's is to be multiplied from the right."""
    done = {f"text_model.{name}": tensor for name, tensor in convert_text(state, config).items()}
    if is_open_clip(state) and "text_projection" in state:
        done["text_projection.weight"] = state["text_projection"].T.contiguous()
    elif "text_projection.weight" in state:
        done["text_projection.weight"] = state["text_projection.weight"]
    return done
