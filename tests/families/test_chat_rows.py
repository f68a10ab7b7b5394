"""Rows that are too long, pairs of answers, and many rows at a time."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from lora_scripts.core.problems import Location
from lora_scripts.data.chat import TextExample
from lora_scripts.families._encode import CUT, DOCUMENT, ENDS
from tests.families.chat_cases import (
    CALL,
    TALK,
    WHERE,
    bot,
    chat,
    encoder,
    prompt_ids,
    random_talk,
    spans,
    user,
)
from tests.texts.small import chat_tokenizer, plain_tokenizer

LONG = TextExample(text="The parcel left the warehouse this morning. " * 20, where=WHERE)


def test_a_long_text_is_cut_split_or_dropped():
    [whole] = encoder(plain_tokenizer(), max_length=10_000).encode(LONG)
    made = encoder(plain_tokenizer(), max_length=50)
    [row] = made.encode(LONG)
    assert row.ids.tolist() == whole.ids[:50].tolist()
    assert row.flags == CUT | DOCUMENT
    assert (made.tallies["truncated"].count, made.tallies["truncated"].places) == (1, ["rows.jsonl:7"])

    made = encoder(plain_tokenizer(), max_length=50, on_long="split")
    rows = made.encode(LONG)
    assert [row.ids[0] for row in rows] == [made.tokenizer.bos_token_id] * len(rows)
    assert np.concatenate([row.ids[1:] for row in rows]).tolist() == whole.ids[1:].tolist()
    assert max(len(row.ids) for row in rows) <= 50
    assert max(len(row.ids) for row in rows) - min(len(row.ids) for row in rows) <= 1
    assert [row.flags & ENDS for row in rows] == [0] * (len(rows) - 1) + [ENDS]
    assert made.tallies["split"].count == 1

    made = encoder(plain_tokenizer(), max_length=50, on_long="drop")
    assert made.encode(LONG) == []
    assert made.tallies["dropped"].count == 1


def test_a_long_answer_loses_its_end_and_a_long_prompt_the_row():
    made = encoder(chat_tokenizer(), max_length=60)
    [row] = made.encode(chat(user("Hi"), bot("on and on " * 30)))
    assert len(row.ids) == 60
    assert row.ids[-1] != made.tokenizer.eos_token_id
    assert row.flags == CUT
    assert made.encode(chat(user("on and on " * 30), bot("Hi"))) == []
    assert made.tallies["truncated"].count == made.tallies["unanswered"].count == 1


def test_a_long_conversation_is_split_where_the_user_speaks():
    turns = [part for n in range(6) for part in (user(f"Question number {n}?"), bot(f"Answer number {n}."))]
    made = encoder(chat_tokenizer(), max_length=130, on_long="split", system="Be brief.")
    rows = made.encode(chat(*turns))
    assert 1 < len(rows) < 6
    texts = [made.tokenizer.decode(row.ids) for row in rows]
    assert all(
        text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n") for text in texts
    )
    assert [span for row in rows for span in spans(made, row)] == [
        f"Answer number {n}.<|im_end|>" for n in range(6)
    ]
    assert max(len(row.ids) for row in rows) <= 130
    assert made.tallies["split"].count == 1
    assert made.tallies["truncated"].count == 0


PAIR = TextExample(
    turns=(user("Hi"), bot("Yes?"), user("Open?")),
    chosen=(bot("Till six."),),
    rejected=(bot("No."),),
    where=WHERE,
)


@pytest.mark.parametrize("make", [chat_tokenizer, lambda: chat_tokenizer(marks=False)])
def test_a_pair_shares_its_prompt_and_learns_both_answers_only(make):
    made = encoder(make())
    [row] = made.encode(PAIR)
    prompt = prompt_ids(made.tokenizer, PAIR.turns)
    for ids, targets, text in (
        (row.ids, row.targets, "Till six.<|im_end|>"),
        (row.rejected_ids, row.rejected_targets, "No.<|im_end|>"),
    ):
        assert ids[: len(prompt)].tolist() == prompt
        assert not targets[: len(prompt)].any()
        assert targets[len(prompt) :].all()
        assert made.tokenizer.decode(ids[len(prompt) :]) == text
    assert row.flags == ENDS


def test_a_long_pair_is_cut_or_left_out_as_a_whole():
    made = encoder(chat_tokenizer(), max_length=100)
    longer = replace(PAIR, rejected=(bot("on and on " * 30),))
    [row] = made.encode(longer)
    assert row.rejected_ids is not None
    assert len(row.rejected_ids) == 100
    assert row.flags == CUT
    assert made.encode(replace(PAIR, turns=(user("on and on " * 30),))) == []
    assert (made.tallies["truncated"].count, made.tallies["unanswered"].count) == (1, 1)
    made = encoder(chat_tokenizer(), max_length=100, on_long="drop")
    assert made.encode(longer) == []
    assert made.tallies["dropped"].count == 1


def test_a_pair_without_a_template_is_joined():
    made = encoder(plain_tokenizer())
    plain = TextExample(
        turns=(user("We open"),),
        chosen=(bot(" at nine"),),
        rejected=(bot(" never"),),
        plain=True,
        where=WHERE,
    )
    [row] = made.encode(plain)
    assert made.tokenizer.decode(row.ids) == "<s> We open at nine</s>"
    assert row.rejected_ids is not None
    assert made.tokenizer.decode(row.rejected_ids) == "<s> We open never</s>"


def test_many_examples_at_a_time_give_what_each_gives_alone():
    draw = random.Random(1)
    talks = [replace(random_talk(draw), where=Location("rows.jsonl", n)) for n in range(300)]
    bad = chat(user("?"), bot("", tool_calls=(CALL,)), where=Location("rows.jsonl", 1000))
    problems: list = []
    together = list(encoder(chat_tokenizer()).encode_all([*talks, bad, *talks], problems.append))
    tokenizer = chat_tokenizer()
    alone = [row for talk in talks for row in encoder(tokenizer).encode(talk)]
    assert [row.ids.tolist() for _, row in together] == [row.ids.tolist() for row in alone] * 2
    assert [row.line for _, row in together] == [row.line for row in alone] * 2
    assert [(problem.code, str(problem.where)) for problem in problems] == [("LS2204", "rows.jsonl:1000")]


def test_a_tokenizer_that_encodes_conversations_itself_is_asked_to():
    tokenizer = chat_tokenizer()
    calls: list = []

    def encode_conversation(turns, tools=(), *, prompt=False):
        calls.append(([turn.train for turn in turns], prompt))
        return [([5, 6, 7, 2, 9], [False, False, True, True, False])]

    tokenizer.encode_conversation = encode_conversation
    made = encoder(tokenizer)
    [row] = made.encode(TALK)
    assert (row.ids.tolist(), row.targets.tolist()) == ([5, 6, 7, 2], [False, False, True, True])
    [row] = made.encode(PAIR)
    assert row.rejected_ids is not None
    assert calls[1:] == [([False] * 3 + [True], False)] * 2
    encoder(tokenizer, chat_template="chatml").encode(TALK)
    assert len(calls) == 3
