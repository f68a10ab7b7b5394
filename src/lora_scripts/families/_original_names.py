"""Where the weights of Diffusers' and Transformers' modules stand in an original single file.

The way is found by sending numbered rows through the very conversion that loads the file, so that it also
knows weights that a conversion splits.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ._single_file import Layout, Shapes, own_shapes

ROWS = 2**32
"""More rows than any tensor has."""


@dataclass(frozen=True)
class Place:
    """Rows ``start`` to ``stop`` of the tensor ``name`` of a file."""

    name: str
    start: int
    stop: int


def places(layout: Layout, shapes: Shapes, config: Mapping[str, Any]) -> dict[str, Place]:
    """The component's own name of a weight -> where it stands in the file; empty where the file lacks it.

    ``shapes``: of the whole file. ``config``: the component's. A weight that the conversion turns or mixes
    has no place.
    """
    import torch

    found = own_shapes(layout, shapes)
    if found is None:
        return {}
    prefix, own = found
    names = sorted(own)
    marked: dict[str, Any] = {}
    for number, name in enumerate(names):
        shape = own[name]
        rows = torch.arange(shape[0] if shape else 1) + number * ROWS
        marked[name] = rows.view(-1, *(1 for _ in shape[1:])).expand(shape) if shape else rows[0]
    result = {}
    for name, tensor in layout.convert(marked, config).items():
        if not tensor.ndim or not tensor.numel():
            continue
        column = tensor[(slice(None), *(0 for _ in tensor.shape[1:]))]
        first = int(column[0])
        if torch.equal(column, torch.arange(first, first + len(column))):
            start = first % ROWS
            result[name] = Place(prefix + names[first // ROWS], start, start + len(column))
    return result


RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
SINGLE = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
MIDDLE = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)")


def unet_names(modules: Iterable[str]) -> dict[str, str]:
    """A U-Net's module names in Diffusers -> in the original program, which numbers all blocks in a row."""
    names = list(modules)
    layers = 1 + max((int(m[4]) for n in names if (m := BLOCK.match(n)) and m[1] == "down"), default=0)
    attends = {int(m[2]) for n in names if (m := BLOCK.match(n)) and m[1] == "up" and m[3] == "attentions"}
    found = ((name, unet_name(name, layers, attends)) for name in names)
    return {name: original for name, original in found if original is not None}


def unet_name(name: str, layers: int, attends: Collection[int]) -> str | None:
    """One module's name, None where the original has none. ``layers``: blocks of a level on the way down;
    ``attends``: levels with attention on the way up, counted in that order."""
    if name in SINGLE:
        return SINGLE[name]
    if middle := MIDDLE.match(name):
        slot = 1 if middle[1] == "attentions" else 2 * int(middle[2])
        return f"middle_block.{slot}.{RESNET.get(middle[3], middle[3])}"
    block = BLOCK.match(name)
    if block is None:
        return None
    way, level, part, number = block[1], int(block[2]), block[3], int(block[4])
    tail = RESNET.get(block[5], block[5]) if part == "resnets" else block[5]
    slot = int(part == "attentions")
    if part == "downsamplers":
        return f"input_blocks.{(level + 1) * (layers + 1)}.0.op"
    if part == "upsamplers":
        return f"output_blocks.{level * (layers + 1) + layers}.{2 if level in attends else 1}.{tail}"
    if way == "down":
        return f"input_blocks.{1 + level * (layers + 1) + number}.{slot}.{tail}"
    return f"output_blocks.{level * (layers + 1) + number}.{slot}.{tail}"
