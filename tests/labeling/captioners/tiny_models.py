"""Vision models of the real classes at small size with random weights, saved in the real layout with their
real processors and with tokenizers made here. What they say is noise: loading, batching, generation and the
handling of files are real, the quality of captions is not judged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

VOCABULARY = (
    "a the red green blue small round square lamp boat house tree on under beside sea sky at night with"
)
WORDS = VOCABULARY.split()
VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 64}


def bert_tokenizer() -> Any:
    from transformers import BertTokenizer

    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = [
        *specials,
        *WORDS,
        *("abcdefghijklmnopqrstuvwxyz.,'"),
        *(f"##{c}" for c in "abcdefghijklmno"),
    ]
    return BertTokenizer(vocab={word: number for number, word in enumerate(dict.fromkeys(vocabulary))})


def byte_tokenizer(*specials: str, **named: Any) -> Any:
    """Byte-level BPE over ``WORDS``; each of ``specials`` is one token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=list(specials), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([" ".join(WORDS)] * 4, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named)


def _saved(model: Any, processor: Any, folder: Path, liveliness: float = 1.0) -> Path:
    """Weights are spread so that different pictures give different texts."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(noise * liveliness / parameter.shape[-1] ** 0.5)
    model.eval().save_pretrained(str(folder))
    processor.save_pretrained(str(folder))
    return folder


def blip(folder: Path) -> Path:
    from transformers import BlipConfig, BlipForConditionalGeneration, BlipImageProcessor, BlipProcessor

    tokenizer = bert_tokenizer()
    ids = tokenizer.convert_tokens_to_ids
    text = {
        **TEXT,
        "intermediate_size": 64,
        "encoder_hidden_size": 32,
        "vocab_size": len(tokenizer),
        "bos_token_id": ids("[CLS]"),
        "eos_token_id": ids("[SEP]"),
        "sep_token_id": ids("[SEP]"),
        "pad_token_id": ids("[PAD]"),
        "max_position_embeddings": 24,
    }
    vision = {**VISION, "image_size": 32, "patch_size": 8}
    model = BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision))
    image = BlipImageProcessor(size={"height": 32, "width": 32})
    return _saved(model, BlipProcessor(image, tokenizer), folder, 3.0)


def blip2(folder: Path) -> Path:
    from transformers import Blip2Config, Blip2ForConditionalGeneration, Blip2Processor, BlipImageProcessor

    tokenizer = byte_tokenizer("<pad>", "</s>", bos_token="</s>", eos_token="</s>", pad_token="<pad>")
    processor = Blip2Processor(
        BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer, num_query_tokens=4
    )
    ids = tokenizer.convert_tokens_to_ids
    text = {
        "model_type": "opt",
        "hidden_size": 32,
        "word_embed_proj_dim": 32,
        "ffn_dim": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 128,
        "vocab_size": len(tokenizer),
        "bos_token_id": ids("</s>"),
        "eos_token_id": ids("</s>"),
        "pad_token_id": ids("<pad>"),
    }
    config = Blip2Config(
        vision_config={**VISION, "image_size": 32, "patch_size": 8},
        qformer_config={**TEXT, "intermediate_size": 64, "encoder_hidden_size": 32, "vocab_size": 64},
        text_config=text,
        num_query_tokens=4,
        image_token_index=ids("<image>"),
    )
    return _saved(Blip2ForConditionalGeneration(config), processor, folder, 3.0)


def florence2(folder: Path) -> Path:
    from transformers import (
        CLIPImageProcessor,
        Florence2Config,
        Florence2ForConditionalGeneration,
        Florence2Processor,
    )

    tokenizer = byte_tokenizer(
        *("<s>", "<pad>", "</s>", "<unk>", "<image>"),
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        extra_special_tokens={"image_token": "<image>"},
    )
    image = CLIPImageProcessor(size={"height": 64, "width": 64}, crop_size={"height": 64, "width": 64})
    image.image_seq_length = 5
    text = {
        "model_type": "bart",
        "d_model": 32,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 64,
        "decoder_ffn_dim": 64,
        "max_position_embeddings": 128,
        "vocab_size": len(tokenizer),
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "decoder_start_token_id": 2,
        "forced_eos_token_id": 2,
    }
    vision = {
        "depths": (1, 1, 1, 1),
        "embed_dim": (8, 16, 24, 32),
        "num_heads": (1, 2, 2, 2),
        "num_groups": (1, 2, 2, 2),
        "window_size": 2,
        "projection_dim": 32,
        "max_position_embeddings": 20,
    }
    config = Florence2Config(
        text_config=text,
        vision_config=vision,
        image_token_id=tokenizer.image_token_id,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
    )
    return _saved(
        Florence2ForConditionalGeneration(config), Florence2Processor(image, tokenizer), folder, 2.0
    )


CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}"
    "{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def qwen_vl(folder: Path, kind: str = "qwen2_5_vl") -> Path:
    """As the hub's repositories lie: the processor is no file of its own, its parts and template are."""
    from transformers import CONFIG_MAPPING, AutoModelForImageTextToText, Qwen2VLImageProcessor

    seen = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    names = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *seen)
    tokenizer = byte_tokenizer(*names, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    ids = tokenizer.convert_tokens_to_ids
    text = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "max_position_embeddings": 4096,
        "vocab_size": len(tokenizer),
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
        "bos_token_id": ids("<|endoftext|>"),
        "eos_token_id": ids("<|im_end|>"),
        "pad_token_id": ids("<|endoftext|>"),
    }
    vision = {"depth": 2, "hidden_size": 32, "num_heads": 2, "intermediate_size": 64, "out_hidden_size": 32}
    if kind == "qwen3_vl":
        vision |= {"deepstack_visual_indexes": [0], "num_position_embeddings": 16}
    if kind == "qwen2_vl":
        vision = {"depth": 2, "embed_dim": 32, "num_heads": 2, "hidden_size": 32, "mlp_ratio": 2}
    if kind == "qwen2_5_vl":
        vision |= {"fullatt_block_indexes": [1], "window_size": 56}
    config = CONFIG_MAPPING[kind](
        text_config=text,
        vision_config=vision,
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
    )
    patch = 16 if kind == "qwen3_vl" else 14
    image = Qwen2VLImageProcessor(min_pixels=56 * 56, max_pixels=112 * 112, patch_size=patch)
    _saved(AutoModelForImageTextToText.from_config(config), image, folder, 2.0)
    tokenizer.save_pretrained(str(folder))
    (folder / "chat_template.jinja").write_text(CHAT, encoding="utf-8")
    named = {"qwen2_vl": "Qwen2VL", "qwen2_5_vl": "Qwen2_5_VL", "qwen3_vl": "Qwen3VL"}[kind]
    edit(folder / "preprocessor_config.json", processor_class=f"{named}Processor")
    return folder


def edit(path: Path, **changes: Any) -> None:
    told = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**told, **changes}), encoding="utf-8")
