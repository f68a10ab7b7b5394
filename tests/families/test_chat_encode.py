"""Which tokens of a row carry loss, checked against what Transformers and a client compute on their own."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from lora_scripts.core.problems import ProblemsError
from lora_scripts.data.chat import TextExample, Turn
from lora_scripts.families._encode import DOCUMENT, ENDS
from tests.families.chat_cases import (
    CALL,
    FORCED_THINKING,
    TALK,
    THINKING,
    TOOLS,
    WHERE,
    as_messages,
    bot,
    chat,
    encoder,
    learnt,
    merging_tokenizer,
    prompt_ids,
    random_talk,
    spans,
    user,
)
from tests.texts.small import chat_tokenizer, plain_tokenizer


@pytest.mark.parametrize("marks", [True, False])
def test_answers_carry_loss_as_transformers_own_mask_says(marks):
    tokenizer = chat_tokenizer(marks=marks)
    [row] = encoder(tokenizer).encode(TALK)
    known = chat_tokenizer(marks=True).apply_chat_template(
        as_messages(TALK.turns), return_dict=True, return_assistant_tokens_mask=True
    )
    count = len(row.ids)
    assert row.ids.tolist() == known["input_ids"][:count]
    assert row.targets.tolist() == [bool(bit) for bit in known["assistant_masks"][:count]]
    assert not any(known["assistant_masks"][count:])
    assert (row.ids.dtype, row.targets.dtype) == (np.int32, np.bool_)


@pytest.mark.parametrize("marks", [True, False])
@pytest.mark.parametrize("pad", ["<|endoftext|>", "<|im_end|>"])
def test_the_end_token_is_learnt_even_where_it_is_the_padding(marks, pad):
    made = encoder(chat_tokenizer(marks=marks, pad=pad))
    [row] = made.encode(TALK)
    assert spans(made, row) == ["Hello!<|im_end|>", "保修期为三年。<|im_end|>"]
    assert row.ids[-1] == made.tokenizer.eos_token_id
    assert row.targets[-1]
    assert row.flags == ENDS
    assert dict(made.ends) == {made.tokenizer.eos_token_id: 1}


@pytest.mark.parametrize("marks", [True, False])
def test_a_turn_that_is_not_to_be_learnt_is_left_out(marks):
    made = encoder(chat_tokenizer(marks=marks))
    first, second = replace(TALK.turns[1], train=False), replace(TALK.turns[3], train=False)
    [row] = made.encode(chat(TALK.turns[0], first, *TALK.turns[2:]))
    assert spans(made, row) == ["保修期为三年。<|im_end|>"]
    [row] = made.encode(chat(*TALK.turns[:3], second))
    assert spans(made, row) == ["Hello!<|im_end|>"]
    assert "您好" not in made.tokenizer.decode(row.ids)
    assert made.encode(chat(TALK.turns[0], first)) == []
    assert made.tallies["unlearnt"].count == 1
    assert made.tallies["unlearnt"].places == ["rows.jsonl:7"]


@pytest.mark.parametrize("marks", [True, False])
def test_every_prompt_has_the_tokens_that_a_client_sends(marks):
    """Also where a token would merge the end of the prompt with the beginning of the answer."""
    tokenizer, draw = merging_tokenizer(marks=marks), random.Random(0)
    made = encoder(tokenizer)
    for _ in range(150):
        talk = random_talk(draw)
        rows = made.encode(talk)
        answers = [turn for turn in talk.turns if turn.role == "assistant"]
        found = [
            (row, edge) for row in rows for edge in np.flatnonzero(np.diff(row.targets.astype(int)) == 1)
        ]
        assert len(found) == len(answers)
        for number, (row, edge) in enumerate(found):
            assert row.ids[: edge + 1].tolist() == prompt_ids(tokenizer, talk.turns[: 2 * number + 1])
        text = "".join(span for row in rows for span in spans(made, row))
        assert text == "".join(turn.content + "<|im_end|>" for turn in answers)
    assert made.tallies["crossed"].count > 10
    assert made.tallies["apart"].count > 5


def test_an_edge_that_a_token_would_cross_is_where_the_text_is_parted():
    tokenizer = plain_tokenizer()
    made = encoder(tokenizer)
    row = made.encode(TextExample(turns=(user("on Saturday "), bot("we close")), plain=True, where=WHERE))[0]
    prompt = tokenizer("on Saturday ")["input_ids"]
    assert row.ids[: len(prompt)].tolist() == prompt
    assert row.targets.tolist() == [False] * len(prompt) + [True] * (len(row.ids) - len(prompt))
    assert tokenizer.decode(row.ids[len(prompt) :]) == "we close</s>"
    assert made.tallies["crossed"].count == 1


def test_a_slow_tokenizer_gives_the_same_rows():
    class Slow:
        """A tokenizer of Python's: no offsets, one text at a time."""

        def __init__(self, fast):
            self.fast, self.is_fast = fast, False

        def __call__(self, text, **options):
            return self.fast(text, **options)

        def __getattr__(self, name):
            if name == "backend_tokenizer":
                raise AttributeError(name)
            return getattr(self.fast, name)

    fast, slow = encoder(chat_tokenizer()), encoder(Slow(chat_tokenizer()))
    for example in (TALK, chat(user("Hi"), bot("x", train=False), user("?"), bot("y"))):
        for one, other in zip(fast.encode(example), slow.encode(example), strict=True):
            assert one.ids.tolist() == other.ids.tolist()
            assert one.targets.tolist() == other.targets.tolist()


def test_answers_of_a_template_that_rewrites_earlier_turns_become_rows_of_their_own():
    tokenizer = chat_tokenizer()
    made = encoder(tokenizer, template=THINKING)
    talk = chat(
        user("2+2?"), bot("4", reasoning="two and two"), user("3+3?"), bot("6", reasoning="twice three")
    )
    first, second = made.encode(talk)
    assert spans(made, first) == ["<think>\ntwo and two\n</think>\n\n4<|im_end|>"]
    assert spans(made, second) == ["<think>\ntwice three\n</think>\n\n6<|im_end|>"]
    assert "two and two" not in tokenizer.decode(second.ids)
    for row, count in ((first, 1), (second, 3)):
        prompt = prompt_ids(tokenizer, talk.turns[:count])
        assert row.ids[: len(prompt)].tolist() == prompt
        assert not row.targets[: len(prompt)].any()
        assert row.targets[len(prompt) :].all()
    assert made.tallies["apart"].count == 1


def test_a_row_without_reasoning_is_learnt_as_a_client_asks_that_turns_thinking_off():
    tokenizer = chat_tokenizer()
    made = encoder(tokenizer, template=THINKING)
    for row, count in zip(made.encode(TALK), (1, 3), strict=True):
        prompt = prompt_ids(tokenizer, TALK.turns[:count], enable_thinking=False)
        assert row.ids[: len(prompt)].tolist() == prompt
        assert tokenizer.decode(prompt).endswith("<think>\n\n</think>\n\n")
        assert learnt(made, row) == TALK.turns[count].content + "<|im_end|>"


def test_an_empty_think_block_can_be_dropped():
    tokenizer = chat_tokenizer()
    made = encoder(tokenizer, template=THINKING, thinking="drop")
    [row] = made.encode(TALK)
    assert "<think>" not in tokenizer.decode(row.ids)
    assert spans(made, row) == ["Hello!<|im_end|>", "保修期为三年。<|im_end|>"]
    prompt = prompt_ids(tokenizer, TALK.turns[:3])
    assert row.ids[: len(prompt)].tolist() == prompt
    [row] = made.encode(chat(user("?"), bot("<think>\n\n</think>\n\nyes")))
    assert spans(made, row) == ["yes<|im_end|>"]
    [row] = made.encode(chat(user("?"), bot("<think>well</think>yes")))
    assert "<think>well</think>yes<|im_end|>" in spans(made, row)[0]


def test_an_empty_think_block_that_no_client_sends_is_learnt():
    written = THINKING.replace("enable_thinking is defined and not enable_thinking", "false")
    made = encoder(chat_tokenizer(), template=written)
    [row] = made.encode(chat(user("Hi"), bot("Hello")))
    assert spans(made, row) == ["<think>\n\n</think>\n\nHello<|im_end|>"]


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (bot("4", reasoning="sum"), "sum\n</think>\n\n4<|im_end|>"),
        (bot("<think>\nsum\n</think>\n\n4"), "sum\n</think>\n\n4<|im_end|>"),
        (bot("4"), "</think>\n\n4<|im_end|>"),
    ],
)
def test_a_think_block_that_the_prompt_opens_is_closed_by_the_answer(answer, text):
    tokenizer = chat_tokenizer()
    made = encoder(tokenizer, template=FORCED_THINKING)
    [row] = made.encode(chat(user("2+2?"), answer))
    prompt = prompt_ids(tokenizer, [user("2+2?")])
    assert row.ids[: len(prompt)].tolist() == prompt
    assert spans(made, row) == [text]


def test_a_template_without_an_end_gets_the_tokenizers():
    tokenizer = plain_tokenizer()
    made = encoder(tokenizer, chat_template="chatglm2")
    rows = made.encode(TALK)
    assert [spans(made, row) for row in rows] == [["Hello!</s>"], ["保修期为三年。</s>"]]
    assert [row.flags for row in rows] == [ENDS, ENDS]
    assert tokenizer.decode(rows[1].ids).count("</s>") == 1


def test_without_any_end_token_no_row_says_that_it_ends():
    tokenizer = plain_tokenizer()
    made = encoder(tokenizer, chat_template="chatglm2")
    tokenizer.eos_token = None
    assert [row.flags for row in made.encode(TALK)] == [0, 0]


def test_marks_within_an_answer_are_heeded_and_reach_over_its_end():
    marked = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}"
        "[note]{% generation %}{{ m.content }}{% endgeneration %}<|im_end|>\n"
        "{% else %}{{ m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    made = encoder(chat_tokenizer(), template=marked)
    [row] = made.encode(TALK)
    assert spans(made, row) == ["Hello!<|im_end|>", "保修期为三年。<|im_end|>"]
    assert "[note]Hello!" in made.tokenizer.decode(row.ids)


def test_a_template_that_asks_for_something_else_than_it_writes_is_refused():
    odd = "{{ 'Q' if add_generation_prompt else 'A' }}{{ messages[-1].content }}<|im_end|>"
    with pytest.raises(ProblemsError) as error:
        encoder(chat_tokenizer(), template=odd).encode(TALK)
    assert error.value.problems[0].code == "LS2205"
    assert error.value.problems[0].where == WHERE


def test_an_answer_that_the_template_empties_is_refused():
    strip = (
        "{% for m in messages %}{{ m.role }}:{{ m.content | trim }}{% endfor %}"
        "{{ 'assistant:' if add_generation_prompt }}"
    )
    with pytest.raises(ProblemsError) as error:
        encoder(chat_tokenizer(), template=strip).encode(chat(user("Hi"), bot(" \n ")))
    assert error.value.problems[0].code == "LS2206"


def test_tool_calls_are_learnt_and_their_results_are_not():
    made = encoder(chat_tokenizer(), chat_template="chatml", max_length=1000)
    talk = chat(
        user("天气？"), bot("", tool_calls=(CALL,)), Turn("tool", '{"t": 3}'), bot("三度"), tools=TOOLS
    )
    [row] = made.encode(talk)
    call = '<tool_call>\n{"name": "weather", "arguments": {"city": "北京"}}\n</tool_call><|im_end|>'
    assert spans(made, row) == [call, "三度<|im_end|>"]
    assert '"description": "of a city"' in made.tokenizer.decode(row.ids)
    assert made.tallies["tools_unused"].count == 0


def test_a_template_that_loses_a_tool_call_is_refused_and_one_that_loses_the_tools_counted():
    made = encoder(chat_tokenizer())
    with pytest.raises(ProblemsError) as error:
        made.encode(chat(user("?"), bot("", tool_calls=(CALL,)), tools=TOOLS))
    assert error.value.problems[0].code == "LS2204"
    made.encode(chat(user("?"), bot("none needed"), tools=TOOLS))
    assert made.tallies["tools_unused"].count == 1


def test_a_system_prompt_is_given_to_rows_without_one():
    made = encoder(chat_tokenizer(), system="Be brief.")
    [row] = made.encode(TALK)
    assert "<|im_start|>system\nBe brief.<|im_end|>" in made.tokenizer.decode(row.ids)
    [row] = made.encode(chat(Turn("system", "Be long."), *TALK.turns))
    assert "Be brief." not in made.tokenizer.decode(row.ids)


def test_loss_on_all_tokens():
    made = encoder(chat_tokenizer(), loss_on="all", template=THINKING)
    [row] = made.encode(TALK)
    assert row.targets.tolist() == [False] + [True] * (len(row.ids) - 1)
    assert row.flags == ENDS
    assert row.ids[-1] == made.tokenizer("\n")["input_ids"][0]
    made = encoder(plain_tokenizer(), loss_on="all", chat_template="chatglm2")
    assert made.encode(TALK)[0].ids[-1] == made.tokenizer.eos_token_id


def test_conversations_need_a_template_and_completions_do_not():
    made = encoder(plain_tokenizer())
    with pytest.raises(ProblemsError) as error:
        made.encode(TALK)
    assert error.value.problems[0].code == "LS2200"
    assert error.value.problems[0].params["advice"] == "llama2"
    [row] = made.encode(TextExample(turns=(user("A kettle"), bot(" that leaks")), plain=True, where=WHERE))
    assert made.tokenizer.decode(row.ids) == "<s> A kettle that leaks</s>"
    assert spans(made, row)[0].strip() == "that leaks</s>"
    with_template = encoder(chat_tokenizer())
    [row] = with_template.encode(TextExample(turns=(user("Hi"), bot("Yo")), plain=True, where=WHERE))
    assert "<|im_start|>user\nHi<|im_end|>" in with_template.tokenizer.decode(row.ids)


def test_a_plain_text_begins_and_ends_once():
    made = encoder(plain_tokenizer())
    [row] = made.encode(TextExample(text="保修期为三年。", where=WHERE))
    assert row.ids[0] == made.tokenizer.bos_token_id
    assert row.ids[-1] == made.tokenizer.eos_token_id
    assert (row.ids == made.tokenizer.eos_token_id).sum() == 1
    assert row.targets.tolist() == [False] + [True] * (len(row.ids) - 1)
    assert row.flags == ENDS | DOCUMENT
