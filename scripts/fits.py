"""What fits which card, computed: ``docs/fits.md`` and its Chinese twin. Nothing here was measured.

Weights are counted on the meta device at the published sizes. What is kept of activations with gradient
checkpointing is one block's input per block and the largest block's own, in two bytes; adapters and their
optimizer in four. A gibibyte is added for the card's context and the allocator.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lora_scripts.families import flux, sd3
from lora_scripts.families._components import build, weight_shapes

ROOT = Path(__file__).parents[1]
GIB = 2**30
OVERHEAD = 1.0
CARDS = (24, 16, 12, 8)
RANK = 16
SIZES = (512, 768, 1024)
T5_WEIGHTS, CLIPS, VAE_BYTES = 4_762_310_656, 123_650_304 + 694_659_840, 4 * 83_819_683
"""Parameters of T5-XXL's encoder and of both CLIP encoders; bytes of the autoencoder."""
TITLE = {"en": "# What fits which card", "zh": "# 各种显卡能容纳什么"}
START = {
    "en": (
        "Everything here is **computed and not measured** (`python scripts/fits.py`): weights in bf16, "
        "gradient checkpointing on, one picture at a time, rank {rank}, AdamW, and {spare:g} GiB to "
        "spare. Text encoders and VAE are done and gone before the transformer is loaded."
    ),
    "zh": (
        "全部为**计算值，未经实测**（`python scripts/fits.py`）：bf16 权重，梯度检查点开启，每次一张图片"
        "，秩 {rank}，AdamW，外加 {spare:g} GiB 余量。文本编码器和 VAE 先于 transformer 用完并离开显存。"
    ),
}
END = {
    "en": (
        "While captions are encoded, the text encoders and the VAE are on the card together, without the "
        "transformer: about {readers:.1f} GiB, of which {t5:.1f} GiB are T5. That wants 16 GB; with 12 "
        "or 8 GB, Stable Diffusion 3 is trained without T5 (`components: {{text_encoder_3: none}}`). "
        "Files in fp8 become bf16 as they are loaded, and so take what the table says. Picture bases in "
        "4 or 8 bits cannot be trained on yet, so that FLUX wants a card of more than 24 GB."
    ),
    "zh": (
        "编码说明时，文本编码器和 VAE 同时在显卡上（此时没有 transformer）：约 {readers:.1f} GiB，其中 "
        "T5 占 {t5:.1f} GiB，因此需要 16 GB 显存；12 或 8 GB 显卡训练 Stable Diffusion 3 时请不用 T5（"
        "`components: {{text_encoder_3: none}}`）。fp8 文件在载入时转为 bf16，所以占用与上表相同。目前还"
        "不能在 4 位或 8 位的图像底模上训练，因此 FLUX 需要大于 24 GB 的显卡。"
    ),
}
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
FLUX: dict[str, Any] = {"guidance_embeds": True}
BASES = (
    ("Stable Diffusion 3 medium", sd3, SD3, 1536),
    ("Stable Diffusion 3.5 medium", sd3, MEDIUM, 1536),
    ("Stable Diffusion 3.5 large", sd3, LARGE, 2432),
    ("FLUX.1 dev / schnell", flux, FLUX, 3072),
)
KEPT_IN_A_BLOCK = 22
"""Rows of the model's width that the backward pass of one block keeps for each token: norms, queries,
keys, values, attention, and the feed-forward layer, four times as wide, before and after its activation."""


def row(family: Any, config: dict[str, Any], width: int) -> tuple[float, float, list[float]]:
    """GiB of weights, of adapter and optimizer, and in all for each size."""
    with torch.device("meta"):
        module = build(family.SHEET.components["transformer"], config)
    weights = 2 * sum(parameter.numel() for parameter in module.parameters()) / GIB
    from lora_scripts.adapters.spec import match_targets

    shapes = weight_shapes(module)
    names = match_targets(family.SHEET, {"transformer": shapes}, "auto")["transformer"]
    learnt = sum(RANK * (shapes[name][0] + shapes[name][1]) for name in names)
    adapter = 16 * learnt / GIB
    blocks = len(module.transformer_blocks) + len(getattr(module, "single_transformer_blocks", ()))
    totals = []
    for size in SIZES:
        tokens = (size // 16) ** 2 + 77 + 64
        activations = 2 * tokens * width * (2 * blocks + KEPT_IN_A_BLOCK) / GIB
        totals.append(weights + adapter + activations + OVERHEAD)
    return weights, adapter, totals


def page(language: str) -> str:
    zh = language == "zh"
    lines = [TITLE[language], "", START[language].format(rank=RANK, spare=OVERHEAD), ""]
    lines += [
        ("| 底模 | 权重 GiB | 适配器 GiB | " if zh else "| base | weights GiB | adapter GiB | ")
        + " | ".join(f"{size} px" for size in SIZES)
        + (" | 512 px 能用的显卡 |" if zh else " | cards for 512 px |"),
        "|---|---|---|" + "---|" * len(SIZES) + "---|",
    ]
    for title, family, config, width in BASES:
        weights, adapter, totals = row(family, config, width)
        cards = [f"{card} GB" for card in CARDS if totals[0] <= card * 1e9 / GIB]
        numbers = " | ".join(f"{total:.1f}" for total in totals)
        none = "无（超过 24 GB）" if zh else "none of 24 GB or less"
        lines.append(f"| {title} | {weights:.1f} | {adapter:.2f} | {numbers} | {', '.join(cards) or none} |")
    t5, readers = 2 * T5_WEIGHTS / GIB, (2 * (T5_WEIGHTS + CLIPS) + VAE_BYTES) / GIB
    return "\n".join([*lines, "", END[language].format(t5=t5, readers=readers), ""])


if __name__ == "__main__":
    for language, name in (("en", "fits.md"), ("zh", "fits.zh-CN.md")):
        (ROOT / "docs" / name).write_text(page(language), encoding="utf-8")
        print(f"docs/{name}")
