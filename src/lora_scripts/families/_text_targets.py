"""Which layers of a language model a LoRA adapts: presets by the names that the architectures use."""

from __future__ import annotations

import re
from collections.abc import Mapping

_BLOCK = r"(?:.+\.)?(?:layers|h|blocks|block)\.\d+\.(?:.+\.)?"
"""Within a block of the stack: head, embeddings and projectors of other parts stand outside."""
_NEVER = r"(?!.*(?:vision|visual|audio|image|multi_modal|router|indexer))"
"""Parts that see and hear, and what sends tokens to experts or picks keys: training it unbalances them."""
_ROUTERS = r"(?!(?:gate|shared_expert_gate|wg)$)"

PASSED_BY = re.compile(r".+\.(?:mamba|mixer)\.(?:x_proj|dt_proj|out_proj)")
"""Layers of a state-space mixer whose weights its kernels take without calling the layer. An adapter there
never learns, and PEFT refuses to load some of them."""

ATTENTION = (
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "out_proj",
    "qkv_proj",  # phi3
    "query_key_value",  # gpt_neox, falcon, bloom
    "c_attn",  # gpt_bigcode
    "attn.c_proj",
    "Wqkv",  # mpt, dbrx
    "dense",  # gpt_neox, falcon, phi
    "q_a_proj",  # deepseek, minicpm3, glm4_moe_lite: latent attention
    "q_b_proj",
    "kv_a_proj_with_mqa",
    "kv_b_proj",
    "in_proj_qkvz",  # qwen3_next: linear attention
    "in_proj_ba",
    "in_proj_qkv",  # qwen3_5
    "in_proj_z",
    "in_proj_b",
    "in_proj_a",
)


def _block(leaves: str) -> dict[str, tuple[str, ...]]:
    return {"model": (_NEVER + _BLOCK + leaves,)}


PRESETS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "all-linear": _block(_ROUTERS + r"[^.]+"),
    "attention": _block(f"(?:{'|'.join(map(re.escape, ATTENTION))})"),
    "attention-qv": _block("(?:q_proj|q_b_proj|v_proj|kv_b_proj|qkv_proj|query_key_value|c_attn|Wqkv)"),
}
"""Preset -> component -> regular expressions of whole module names, as a ``Sheet`` holds them. Only linear
layers and fused experts are asked, so that ``all-linear`` is each of them in the blocks but routers."""
