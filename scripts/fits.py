"""What fits which card, computed: ``docs/fits.md``, its Chinese twin, and the table that ``lora-scripts
families`` shows. Nothing here was measured.

Weights are counted on the meta device at the published sizes, those of packed layers as bitsandbytes stores
them. What is kept of activations with gradient checkpointing is one block's input per block and the largest
block's own, in two bytes; adapters and their optimizer in four. A gibibyte is added for the card's context
and the allocator.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lora_scripts.adapters.spec import match_targets
from lora_scripts.families._components import build, weight_shapes
from lora_scripts.families._source import family_named

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "src/lora_scripts/families/data/fits.json"
GIB = 2**30
OVERHEAD = 1.0
CARDS = (24, 16, 12, 8)
RANK = 16
SIZES = (512, 768, 1024)
BITS = ("none", "8bit", "4bit")
PACKED = {"none": 2.0, "8bit": 1.0, "4bit": 0.5 + 1 / 64 + 4 / (64 * 256)}
"""Bytes of a packed weight. NF4: half of one, a byte for the scale of 64 of them, and four bytes for that of
256 scales."""
WIDE = ("wo",)
"""Modules of T5 that Transformers never packs: their sums would overflow."""
CLIP_L: dict[str, Any] = {
    "vocab_size": 49408, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12, "projection_dim": 768,
}  # fmt: skip
CLIP_H = {
    **CLIP_L, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23,
    "num_attention_heads": 16,
}  # fmt: skip
CLIP_G = {
    **CLIP_L, "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32,
    "num_attention_heads": 20, "projection_dim": 1280,
}  # fmt: skip
T5: dict[str, Any] = {
    "vocab_size": 32128, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
}  # fmt: skip
QWEN3: dict[str, Any] = {
    "vocab_size": 151936, "hidden_size": 2560, "head_dim": 128, "intermediate_size": 9728,
    "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8,
}  # fmt: skip
UNET: dict[str, Any] = {
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 2,
    "cross_attention_dim": 768,
}
LEVELS = ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"]
SD15 = {
    **UNET, "sample_size": 64, "block_out_channels": (320, 640, 1280, 1280), "attention_head_dim": 8,
    "down_block_types": LEVELS, "up_block_types": [n.replace("Down", "Up") for n in reversed(LEVELS)],
}  # fmt: skip
SD2 = {
    **SD15, "cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True,
}  # fmt: skip
XL_LEVELS = ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"]
SDXL = {
    **UNET, "sample_size": 128, "block_out_channels": (320, 640, 1280), "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20), "transformer_layers_per_block": (1, 2, 10),
    "use_linear_projection": True, "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816, "down_block_types": XL_LEVELS,
    "up_block_types": [n.replace("Down", "Up") for n in reversed(XL_LEVELS)],
}  # fmt: skip
SD3: dict[str, Any] = {
    "sample_size": 128, "patch_size": 2, "in_channels": 16, "out_channels": 16, "num_layers": 24,
    "attention_head_dim": 64, "num_attention_heads": 24, "joint_attention_dim": 4096,
    "caption_projection_dim": 1536, "pooled_projection_dim": 2048, "pos_embed_max_size": 192,
}  # fmt: skip
LARGE = {
    **SD3,
    "num_layers": 38,
    "num_attention_heads": 38,
    "caption_projection_dim": 2432,
    "qk_norm": "rms_norm",
}
MEDIUM = {**SD3, "dual_attention_layers": tuple(range(13)), "qk_norm": "rms_norm"}
THREE = {"text_encoder": CLIP_L, "text_encoder_2": CLIP_G, "text_encoder_3": T5}
VAE_BYTES = 4 * 83_819_683
"""Of the autoencoder, which is never packed."""
BASES: tuple[tuple[str, str, dict[str, Any], Mapping[str, dict[str, Any]]], ...] = (
    ("Stable Diffusion 1.5", "sd15", SD15, {"text_encoder": CLIP_L}),
    ("Stable Diffusion 2.1", "sd2", SD2, {"text_encoder": CLIP_H}),
    ("Stable Diffusion XL 1.0", "sdxl", SDXL, {"text_encoder": CLIP_L, "text_encoder_2": CLIP_G}),
    ("Stable Diffusion 3 medium", "sd3", SD3, THREE),
    ("Stable Diffusion 3.5 medium", "sd3", MEDIUM, THREE),
    ("Stable Diffusion 3.5 large", "sd3", LARGE, THREE),
    (
        "FLUX.1 dev / schnell",
        "flux",
        {"guidance_embeds": True},
        {"text_encoder": CLIP_L, "text_encoder_2": T5},
    ),
    ("Z-Image / Z-Image Turbo", "z_image", {"axes_lens": [1536, 512, 512]}, {"text_encoder": QWEN3}),
)
BLOCKS = ("transformer_blocks", "single_transformer_blocks", "layers", "noise_refiner", "context_refiner")
"""What transformers call their lists of blocks."""
KEPT_IN_A_BLOCK = 22
"""Rows of a transformer's width that the backward pass of one block keeps for each token: norms, queries,
keys, values, attention, and the feed-forward layer, four times as wide, before and after its activation."""
KEPT_IN_A_RESNET = 8
"""Likewise of a U-Net's convolutional block, in planes of its output."""
TITLE = {"en": "# What fits which card", "zh": "# 各种显卡能容纳什么"}
START = {
    "en": (
        "Everything here is **computed until measured** (`python scripts/fits.py`): what is not packed "
        "in bf16, gradient checkpointing on, one picture at a time, rank {rank}, AdamW, and {spare:g} "
        "GiB to spare. GiB of weights are the predictor's; text encoders and VAE are done and gone "
        "before it is loaded, and what they take together is in the column of readers. A card fits "
        "where both fit."
    ),
    "zh": (
        "全部为**计算值，尚未实测**（`python scripts/fits.py`）：未量化的部分为 bf16，梯度检查点开启，"
        "每次一张图片，秩 {rank}，AdamW，外加 {spare:g} GiB 余量。权重一栏是预测网络的；文本编码器和 "
        "VAE 先于它用完并离开显存，两者合计见“编码”一栏。两项都容得下的显卡才算可用。"
    ),
}
HEAD = {
    "en": ("base", "quantization", "weights GiB", "readers GiB", "adapter GiB", "cards for {side} px"),
    "zh": ("底模", "quantization", "权重 GiB", "编码 GiB", "适配器 GiB", "{side} px 可用的显卡"),
}
NONE = {"en": "none of 24 GB or less", "zh": "无（超过 24 GB）"}
END = {
    "en": (
        "`quantization: 4bit` (NF4) and `8bit` (LLM.int8) pack linear layers alone: a U-Net's "
        "convolutions stay in bf16, and so does a third of T5, whose sums would overflow. Where T5 is "
        "what does not fit, Stable Diffusion 3 is trained without it (`components: {text_encoder_3: "
        "none}`). Files in fp8 become bf16 as they are loaded, and so take what the table says without "
        "quantization."
    ),
    "zh": (
        "`quantization: 4bit`（NF4）和 `8bit`（LLM.int8）只量化线性层：U-Net 的卷积仍为 bf16，T5 也有三"
        "分之一保持不变，否则其求和会溢出。如果容不下的是 T5，Stable Diffusion 3 可以不用它（"
        "`components: {text_encoder_3: none}`）。fp8 文件在载入时转为 bf16，所以占用与表中不量化的相同"
        "。"
    ),
}


@dataclass(frozen=True)
class Row:
    """GiB of one base: ``totals`` in training by size; ``readers``: text encoders and VAE together."""

    weights: float
    readers: float
    adapter: float
    totals: tuple[float, ...]

    def cards(self, size: int) -> list[int]:
        need = max(self.totals[SIZES.index(size)], self.readers + OVERHEAD)
        return [card for card in CARDS if need <= card * 1e9 / GIB]


def made(family: str, name: str, config: Mapping[str, Any]) -> Any:
    with torch.device("meta"):
        return build(family_named(family).sheet.components[name], config)


def weight(module: Any, bits: str) -> float:
    """GiB of a component. 8-bit rows have a scale in four bytes each."""
    total = 2.0 * sum(parameter.numel() for parameter in module.parameters())
    for name, layer in module.named_modules():
        if isinstance(layer, torch.nn.Linear) and name.rpartition(".")[2] not in WIDE:
            total += (PACKED[bits] - 2.0) * layer.weight.numel()
            total += 4.0 * layer.out_features if bits == "8bit" else 0.0
    return total / GIB


def activations(module: Any, size: int) -> float:
    """GiB that are kept for the backward pass at ``size`` pixels along a side."""
    if blocks := sum(len(getattr(module, name, ())) for name in BLOCKS):
        told = module.config
        width = told.get("dim") or told.num_attention_heads * told.attention_head_dim
        tokens = (size // 16) ** 2 + 77 + 64
        return 2 * tokens * width * (2 * blocks + KEPT_IN_A_BLOCK) / GIB
    return _of_unet(module, size // 8) / GIB


def _of_unet(module: Any, side: int) -> float:
    """Bytes: the inputs of its blocks and what the largest one keeps, heard in a pass without numbers."""
    inputs: list[int] = []
    inside: list[int] = []

    def hear(factor: int) -> Any:
        def hook(layer: Any, given: Any, out: torch.Tensor) -> None:
            inputs.append(given[0].numel())
            inside.append(factor * out.numel())

        return hook

    for part in module.modules():
        factor = {"ResnetBlock2D": KEPT_IN_A_RESNET, "BasicTransformerBlock": KEPT_IN_A_BLOCK}
        if type(part).__name__ in factor:
            part.register_forward_hook(hear(factor[type(part).__name__]))
    config = module.config
    with torch.device("meta"), torch.no_grad():
        extra = {}
        if config.addition_embed_type:
            pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
            extra = {"text_embeds": torch.empty(1, pooled), "time_ids": torch.empty(1, 6)}
        text = torch.empty(1, 77, config.cross_attention_dim)
        module(torch.empty(1, 4, side, side), torch.empty(1), text, added_cond_kwargs=extra)
    return 2.0 * (sum(inputs) + max(inside))


def rows() -> dict[str, dict[str, Row]]:
    """Base -> bits -> row."""
    found: dict[str, dict[str, Row]] = {}
    for title, family, config, encoders in BASES:
        sheet = family_named(family).sheet
        predictor = made(family, sheet.predictor, config)
        readers = [made(family, name, told) for name, told in encoders.items()]
        shapes = weight_shapes(predictor)
        names = match_targets(sheet, {sheet.predictor: shapes}, "auto")[sheet.predictor]
        adapter = 16 * sum(RANK * (shapes[n][0] + shapes[n][1]) for n in names) / GIB
        kept = [activations(predictor, size) for size in SIZES]
        found[title] = {}
        for bits in BITS:
            weights = weight(predictor, bits)
            totals = tuple(weights + adapter + each + OVERHEAD for each in kept)
            reading = sum(weight(each, bits) for each in readers) + VAE_BYTES / GIB
            found[title][bits] = Row(weights, reading, adapter, totals)
    return found


def side_of(family: str) -> int:
    return min(family_named(family).sheet.resolution, SIZES[-1])


def page(language: str, known: Mapping[str, Mapping[str, Row]]) -> str:
    start = START[language].format(rank=RANK, spare=OVERHEAD)
    lines = [TITLE[language], "", start]
    for size in SIZES:
        bases = [(title, family) for title, family, *_ in BASES if side_of(family) >= size]
        heads = [head.format(side=size) for head in HEAD[language]]
        heads.insert(5, f"{size} px GiB")
        lines += ["", f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
        for title, _ in bases:
            for bits, row in known[title].items():
                cards = ", ".join(f"{card} GB" for card in row.cards(size)) or NONE[language]
                total = row.totals[SIZES.index(size)]
                numbers = f"{row.weights:.1f} | {row.readers:.1f} | {row.adapter:.2f} | {total:.1f}"
                lines.append(f"| {title} | {bits} | {numbers} | {cards} |")
    return "\n".join([*lines, "", END[language], ""])


def table(known: Mapping[str, Mapping[str, Row]]) -> str:
    """Family -> its bases, each with the smallest card by bits at the family's own resolution, 0 for none."""
    found: dict[str, list[dict[str, Any]]] = {}
    for title, family, *_ in BASES:
        side = side_of(family)
        cards = {bits: min(row.cards(side), default=0) for bits, row in known[title].items()}
        found.setdefault(family, []).append({"base": title, "side": side, "cards": cards})
    return json.dumps(found, indent=1) + "\n"


def pages() -> dict[Path, str]:
    known = rows()
    docs = {
        ROOT / "docs" / name: page(lang, known) for lang, name in (("en", "fits.md"), ("zh", "fits.zh-CN.md"))
    }
    return {**docs, TABLE: table(known)}


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(ROOT))
