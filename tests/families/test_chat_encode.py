"""Which tokens of a row carry loss, checked against what Transformers and a client compute on their own."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from lora_scripts.core.problems import Location, ProblemsError
from lora_scripts.data.chat import TextExample, Turn
from lora_scripts.families._encode import CUT, DOCUMENT, ENDS, Encoder
from tests.families.chat_cases import (
    CALL,
    FORCED_THINKING,
    THINKING,
    TOOLS,
    WHERE,
    as_messages,
    bot,
    chat,
    merging_tokenizer,
    user,
)
from tests.texts.small import chat_tokenizer, plain_tokenizer

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


def random_talk(draw: random.Random) -> TextExample:
    turns = []
    for _ in range(draw.randint(1, 3)):
        words = ["".join(draw.choices(AWKWARD, k=draw.randint(1, 4))) for _ in range(2)]
        turns += [user(words[0]), bot(words[1])]
    return chat(*turns)


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
    alone = [row for talk in talks for row in encoder(chat_tokenizer()).encode(talk)]
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
