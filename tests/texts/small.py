"""Small language models for tests: tokenizers trained on a few sentences, and tiny random models in
Transformers folders. Nothing is downloaded, and within a process the same call gives the same weights."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

SENTENCES = (
    "The parcel left the warehouse this morning and should arrive in two days.",
    "Please send us a photo of the broken handle, and we will replace it for free.",
    "Our shop is open from nine to six, Monday to Friday; on Saturday we close at noon.",
    "A kettle that leaks is repaired within the guarantee, which lasts three years.",
    "She asked where the lighthouse stands, and nobody in the village could tell.",
    "Numbers such as 12, 345 and 6789 are written without a space.",
    "def add(a, b):\n    return a + b\n",
    "您好，请问这款水壶的保修期是多久？",
    "保修期为三年，请保留您的发票。",
    "我们会在两个工作日内发货，运费由本店承担。",
    "今天天气很好，我们去公园散步吧。",
    "🙂 café naïve Größe Ελληνικά",
)
CHATML = (
    "{% if messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}"
    "{% endif %}"
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    "{% else %}"
    "{{ message['content'] + '<|im_end|>\n' }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""ChatML with generation marks; a conversation without a system turn gets the usual sentence."""
CHATML_WITHOUT_MARKS = CHATML.replace("{% generation %}", "").replace("{% endgeneration %}", "")


@lru_cache
def _byte_level() -> str:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return tokenizer.to_str()


@lru_cache
def _unigram() -> str:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    octets = [f"<0x{octet:02X}>" for octet in range(256)]
    trainer = trainers.UnigramTrainer(
        vocab_size=600,
        special_tokens=["<unk>", "<s>", "</s>", *octets],
        unk_token="<unk>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES * 4, trainer)
    told = json.loads(tokenizer.to_str())
    told["model"]["byte_fallback"] = True
    plain = [token for token in told["added_tokens"] if not token["content"].startswith("<0x")]
    told["added_tokens"] = plain
    return json.dumps(told, ensure_ascii=False)


def chat_tokenizer(*, marks: bool = True, pad: str = "<|endoftext|>") -> Any:
    """Byte-level BPE with ChatML; it ends a turn with ``<|im_end|>``, which is its eos. ``marks``: whether
    the template has ``{% generation %}`` marks; ``pad="<|im_end|>"`` is the trap pad == eos."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_byte_level()),
        eos_token="<|im_end|>",
        pad_token=pad,
        model_max_length=256,
        additional_special_tokens=["<|im_start|>"],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHATML if marks else CHATML_WITHOUT_MARKS
    return tokenizer


def plain_tokenizer() -> Any:
    """Unigram in the manner of SentencePiece, with byte fallback and a BOS that it adds itself; no chat
    template."""
    from tokenizers import Tokenizer, processors
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer.from_str(_unigram())
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", inner.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        model_max_length=256,
        clean_up_tokenization_spaces=False,
    )


SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
}
EXPERTS: dict[str, Any] = {"moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 8},
    "qwen2": {},
    "qwen3": {},
    "qwen3_moe": {**EXPERTS, "decoder_sparse_step": 1},
    "gemma": {},
    "gemma2": {
        "query_pre_attn_scalar": 16,
        "sliding_window": 8,
        "attn_logit_softcapping": 5.0,
        "final_logit_softcapping": 4.0,
    },
    "gemma3_text": {"query_pre_attn_scalar": 16, "sliding_window": 8, "num_hidden_layers": 6},
    "glm": {"pad_token_id": 0},
    "glm4": {"pad_token_id": 0},
    "gpt_oss": {
        "num_local_experts": 4,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "num_experts_per_tok": 2,
        "sliding_window": 8,
    },
    "cohere": {"logit_scale": 0.25, "pad_token_id": 0},
    "granite": {"logits_scaling": 3.0, "residual_multiplier": 0.5, "attention_multiplier": 0.2},
    "phi3": {"pad_token_id": 0},
}
"""model_type -> what differs from ``SIZES``. Any other native type works with the defaults or ``changes``."""
KINDS = ("llama", "qwen2", "qwen3", "gemma", "glm", "glm4")


def config(kind: str, tokenizer: Any, **changes: Any) -> Any:
    from transformers import CONFIG_MAPPING

    settings = {**SIZES, "vocab_size": len(tokenizer), **CONFIGS.get(kind, {}), **changes}
    settings.setdefault("bos_token_id", tokenizer.bos_token_id)
    settings.setdefault("eos_token_id", tokenizer.eos_token_id)
    settings.setdefault("pad_token_id", tokenizer.pad_token_id)
    return CONFIG_MAPPING[kind](**settings)


def model(kind: str = "llama", *, tokenizer: Any = None, seed: int = 0, **changes: Any) -> Any:
    """A tiny random model in eval mode, float32. Its weights are drawn wide enough for attention and norms
    to matter: with the usual 0.02, one could drop a layer without seeing it."""
    from transformers import AutoModelForCausalLM

    settings = config(kind, tokenizer or chat_tokenizer(), **changes)
    made = AutoModelForCausalLM.from_config(settings, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name and parameter.ndim == 1:
                parameter.add_(0.2 * noise)
            else:
                parameter.copy_(0.15 * noise)
    return made.eval()


def write_model(
    folder: Path, kind: str = "llama", *, tokenizer: Any = None, seed: int = 0, **changes: Any
) -> Path:
    """A tiny random model with its tokenizer as a Transformers folder in safetensors. ``changes`` go into
    its configuration."""
    words = tokenizer or chat_tokenizer()
    model(kind, tokenizer=words, seed=seed, **changes).save_pretrained(str(folder))
    words.save_pretrained(str(folder))
    return folder
