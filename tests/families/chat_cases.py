"""What the tests of chat encoding share: conversations, templates with a will of their own, tokenizers."""

from __future__ import annotations

import os
import random
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from lora_scripts.core.problems import Location
from lora_scripts.data.chat import TextExample, Turn
from lora_scripts.families._encode import Encoder
from tests.texts.small import CHATML, CHATML_WITHOUT_MARKS

ASSETS = Path(os.environ.get("LORA_SCRIPTS_ASSETS", Path(__file__).parents[3] / "assets"))
REAL_DATA = Path(__file__).parents[3] / "shared" / "data" / "text"
WHERE = Location("rows.jsonl", 7)
TOOLS = (
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "of a city",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    },
)
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "北京"}}}

THINKING = (
    "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\n' }}"
    "{%- set r = m.reasoning_content or '' %}"
    "{%- if m.role == 'assistant' and loop.last %}{{- '<think>\n' + r + '\n</think>\n\n' }}{% endif %}"
    "{{- m.content + '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}"
    "{%- if enable_thinking is defined and not enable_thinking %}{{- '<think>\n\n</think>\n\n' }}{% endif %}"
    "{%- endif %}"
)
"""As Qwen3: the last answer gets a think block, empty without reasoning; earlier ones lose theirs."""
FORCED_THINKING = (
    "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n<think>\n' }}{% endif %}"
    "{# reasoning_content #}"
)
"""As DeepSeek-R1: the prompt opens a think block that the conversation does not show."""


MERGED = ("assistant\n\n", "\n\n\n", "\nHello", "assistant\n  two", "\n🙂", "assistant\na\n\n", "\n1234")
"""Texts whose tokens reach from the end of a prompt into an answer."""


@lru_cache
def _merging() -> str:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(MERGED * 9, trainer)
    return tokenizer.to_str()


def merging_tokenizer(*, marks: bool):
    """Byte-level BPE that merges whatever stands side by side, with ChatML."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    made = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_merging()), eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    made.chat_template = CHATML if marks else CHATML_WITHOUT_MARKS
    return made


def user(text: str) -> Turn:
    return Turn("user", text)


def bot(text: str, **more) -> Turn:
    return Turn("assistant", text, **more)


def chat(*turns: Turn, **more) -> TextExample:
    return TextExample(turns=turns, where=more.pop("where", WHERE), **more)


def as_messages(turns) -> list[dict]:
    return [{"role": turn.role, "content": turn.content} for turn in turns]


@lru_cache
def real(name: str):
    from transformers import AutoTokenizer

    folder = ASSETS / "tokenizers" / name
    if not folder.is_dir():
        pytest.skip(f"no tokenizer in {folder}")
    return AutoTokenizer.from_pretrained(str(folder))


def real_rows(name: str) -> list[TextExample]:
    from lora_scripts.data.text_sources import TextSource, open_texts

    if not (REAL_DATA / name).is_file():
        pytest.skip(f"no {name} in {REAL_DATA}")
    return list(open_texts([TextSource(str(REAL_DATA / name))]))


TALK = chat(user("Hi"), bot("Hello!"), user("您好，请问保修期？"), bot("保修期为三年。"))
AWKWARD = [
    "\n",
    "\n\nHello",
    "  two",
    "x ",
    "a\n\n",
    "🙂",
    "三年",
    "é",
    "1234",
    "\t",
    ".",
    "def f():\n  pass",
]


def encoder(tokenizer, *, template: str | None = None, **options) -> Encoder:
    if template is not None:
        tokenizer.chat_template = template
    return Encoder(tokenizer, **{"max_length": 256, **options})


def learnt(made: Encoder, row) -> str:
    return made.tokenizer.decode(row.ids[row.targets])


def spans(made: Encoder, row) -> list[str]:
    edges = np.flatnonzero(np.diff(np.concatenate(([0], row.targets.astype(np.int8), [0]))))
    return [made.tokenizer.decode(row.ids[a:b]) for a, b in edges.reshape(-1, 2)]


def prompt_ids(tokenizer, turns, **options) -> list[int]:
    """As a client gets them."""
    options |= {"add_generation_prompt": True, "return_dict": False}
    return list(tokenizer.apply_chat_template(as_messages(turns), **options))


def random_talk(draw: random.Random) -> TextExample:
    turns = []
    for _ in range(draw.randint(1, 3)):
        words = ["".join(draw.choices(AWKWARD, k=draw.randint(1, 4))) for _ in range(2)]
        turns += [user(words[0]), bot(words[1])]
    return chat(*turns)
