"""Toy checkpoints of ChatGLM2 and ChatGLM3 in their original layout, and what the original computes, written
from the published description: complex numbers for the rotation, one loop over heads, the fused matrices as
the files have them. Nothing of the program under test is used."""

from __future__ import annotations

import io
import json
import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.texts.small import SENTENCES

LAYERS, WIDTH, HEADS, GROUPS, HEAD, INNER, WORDS = 2, 64, 4, 2, 16, 128, 768
CONFIG: dict[str, Any] = {
    "model_type": "chatglm",
    "architectures": ["ChatGLMModel"],
    "auto_map": {
        "AutoConfig": "configuration_chatglm.ChatGLMConfig",
        "AutoModelForCausalLM": "modeling_chatglm.ChatGLMForConditionalGeneration",
    },
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "apply_query_key_layer_scaling": True,
    "apply_residual_connection_post_layernorm": False,
    "attention_softmax_in_fp32": True,
    "ffn_hidden_size": INNER,
    "fp32_residual_connection": False,
    "hidden_size": WIDTH,
    "kv_channels": HEAD,
    "layernorm_epsilon": 1e-5,
    "multi_query_attention": True,
    "multi_query_group_num": GROUPS,
    "num_attention_heads": HEADS,
    "num_layers": LAYERS,
    "original_rope": True,
    "padded_vocab_size": WORDS,
    "post_layer_norm": True,
    "rmsnorm": True,
    "seq_length": 256,
    "torch_dtype": "float16",
    "tie_word_embeddings": False,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
ROWS = (
    *SENTENCES,
    "    if x:\n        return y",
    "a  b   c    d     e",
    "sophisticated sop eop <|user|> [gMASK]",
    "哈哈哈哈 aaaa bbbb  ",
    "\t\tdef f():\n\t\t\tpass",
)


def shapes(layers: int = LAYERS) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor of an original checkpoint, the buffer that loaders drop included."""
    fused = (HEADS + 2 * GROUPS) * HEAD
    found: dict[str, tuple[int, ...]] = {
        "transformer.embedding.word_embeddings.weight": (WORDS, WIDTH),
        "transformer.rotary_pos_emb.inv_freq": (HEAD // 4,),
        "transformer.encoder.final_layernorm.weight": (WIDTH,),
        "transformer.output_layer.weight": (WORDS, WIDTH),
    }
    for number in range(layers):
        layer = f"transformer.encoder.layers.{number}"
        found |= {
            f"{layer}.input_layernorm.weight": (WIDTH,),
            f"{layer}.self_attention.query_key_value.weight": (fused, WIDTH),
            f"{layer}.self_attention.query_key_value.bias": (fused,),
            f"{layer}.self_attention.dense.weight": (WIDTH, HEADS * HEAD),
            f"{layer}.post_attention_layernorm.weight": (WIDTH,),
            f"{layer}.mlp.dense_h_to_4h.weight": (2 * INNER, WIDTH),
            f"{layer}.mlp.dense_4h_to_h.weight": (WIDTH, INNER),
        }
    return found


def weights(seed: int = 0) -> dict[str, Tensor]:
    """Random float32 weights, wide enough for every part to matter."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, shape in shapes().items():
        noise = torch.randn(shape, generator=generator)
        found[name] = 1 + 0.2 * noise if "layernorm" in name else 0.15 * noise
    return found


@lru_cache
def sentencepiece_model(**changes: Any) -> bytes:
    """A SentencePiece model trained on a few sentences: byte pairs, byte fallback, identity."""
    import sentencepiece

    settings: dict[str, Any] = {
        "vocab_size": 700,
        "model_type": "bpe",
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "allow_whitespace_only_pieces": True,
        "character_coverage": 1.0,
        "hard_vocab_limit": False,
        "minloglevel": 2,
    }
    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(ROWS * 3), model_writer=made, **{**settings, **changes}
    )
    return made.getvalue()


def write(
    folder: Path,
    generation: int = 3,
    *,
    state: dict[str, Tensor] | None = None,
    tokenizer: bytes | None = None,
    shards: int = 2,
    **changes: Any,
) -> Path:
    """A checkpoint folder as it is published, in ``shards`` safetensors files. ``changes`` go into
    ``config.json``."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    name = f"THUDM/chatglm{generation}-6b"
    (folder / "config.json").write_text(json.dumps({"_name_or_path": name, **CONFIG, **changes}))
    settings = {"name_or_path": name, "tokenizer_class": "ChatGLMTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "tokenizer.model").write_bytes(tokenizer or sentencepiece_model())
    whole = state or weights()
    names = sorted(whole)
    index = {}
    for number in range(shards):
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        part = {name: whole[name].contiguous() for name in names[number::shards]}
        save_file(part, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(part, file)
    total = sum(t.numel() * t.element_size() for t in whole.values())
    written = {"metadata": {"total_size": total}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(written))
    return folder


def _norm(hidden: Tensor, weight: Tensor) -> Tensor:
    return hidden / (hidden.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight


def _turned(vectors: Tensor, base: float, divisor: float) -> Tensor:
    """(T, HEAD): the first half of each head, taken as complex numbers of neighbours, is turned by its place
    times base^(-2i/d); the second half stays."""
    turned, kept = vectors[:, : HEAD // 2], vectors[:, HEAD // 2 :]
    pairs = torch.view_as_complex(turned.reshape(len(vectors), -1, 2).contiguous())
    count = pairs.shape[1]
    angles = torch.arange(len(vectors))[:, None] / divisor / base ** (torch.arange(count) / count)[None]
    spun = pairs * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([torch.view_as_real(spun).reshape(len(vectors), -1), kept], dim=-1)


def logits(state: dict[str, Tensor], ids: Tensor, *, base: float = 1e4, divisor: float = 1.0) -> Tensor:
    """(T, WORDS) for one sequence (T,)."""
    hidden = state["transformer.embedding.word_embeddings.weight"][ids]
    blocked = torch.ones(len(ids), len(ids), dtype=torch.bool).triu(1)
    for number in range(LAYERS):
        own = {n.split(f"layers.{number}.")[1]: t for n, t in state.items() if f"layers.{number}." in n}
        given = _norm(hidden, own["input_layernorm.weight"])
        fused = given @ own["self_attention.query_key_value.weight"].T
        fused = fused + own["self_attention.query_key_value.bias"]
        queries, keys, values = fused.split([HEADS * HEAD, GROUPS * HEAD, GROUPS * HEAD], dim=-1)
        seen = []
        for head in range(HEADS):
            group = head // (HEADS // GROUPS)
            query = _turned(queries[:, head * HEAD : (head + 1) * HEAD], base, divisor)
            key = _turned(keys[:, group * HEAD : (group + 1) * HEAD], base, divisor)
            scores = (query @ key.T / math.sqrt(HEAD)).masked_fill(blocked, -torch.inf)
            seen.append(scores.softmax(-1) @ values[:, group * HEAD : (group + 1) * HEAD])
        hidden = hidden + torch.cat(seen, -1) @ own["self_attention.dense.weight"].T
        given = _norm(hidden, own["post_attention_layernorm.weight"])
        gate, up = (given @ own["mlp.dense_h_to_4h.weight"].T).chunk(2, -1)
        hidden = hidden + (gate * gate.sigmoid() * up) @ own["mlp.dense_4h_to_h.weight"].T
    hidden = _norm(hidden, state["transformer.encoder.final_layernorm.weight"])
    return hidden @ state["transformer.output_layer.weight"].T
