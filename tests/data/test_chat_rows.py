"""Rows of every form that people have, read into what they mean."""

from __future__ import annotations

import json

import pytest

from lora_scripts.data.chat import Turn
from lora_scripts.data.text_forms import FORMS, form_title
from tests.data.text_cases import REAL, contents, dialogue, form, read, roles, row_example, write_jsonl

USER, ANSWER = Turn("user", "When?"), Turn("assistant", "Soon.")
SOON = {"role": "assistant", "content": "Soon."}
SINGLE = {
    "messages": [
        {"messages": dialogue("When?", "Soon.")},
        {"conversation": [{"role": "human", "content": "When?"}, {"role": "gpt", "content": "Soon."}]},
        {"对话": dialogue("When?", "Soon."), "id": 7},
        {"messages": json.dumps(dialogue("When?", "Soon."))},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "When?"}]}, SOON]},
        {"Messages": dialogue("When?", "Soon.")},
    ],
    "sharegpt": [
        {"conversations": [{"from": "human", "value": "When?"}, {"from": "gpt", "value": "Soon."}]},
        {"messages": [{"from": "user", "value": "When?"}, {"from": "model", "value": "Soon."}], "tools": ""},
    ],
    "alpaca": [
        {"instruction": "When?", "input": "", "output": "Soon."},
        {"指令": "When?", "输入": "", "输出": "Soon."},
        {"instruction": "When?", "context": None, "response": "Soon.", "category": "shop"},
        {"input": "When?", "output": "Soon."},
        {"instruction": "", "input": "When?", "output": "Soon."},
    ],
    "prompt_completion": [
        {"prompt": "When?", "completion": "Soon."},
        {"prompt": "When?", "response": "Soon."},
        {"提示": "When?", "回复": "Soon."},
    ],
    "question_answer": [
        {"question": "When?", "answer": "Soon."},
        {"问题": "When?", "回答": "Soon."},
        {"问": "When?", "答": "Soon."},
        {"提问": "When?", "答复": "Soon."},
        {"問題": "When?", "回應": "Soon."},
        {"query": "When?", "response": "Soon."},
    ],
}  # fmt: skip


@pytest.mark.parametrize(("name", "row"), [(name, row) for name, rows in SINGLE.items() for row in rows])
def test_a_row_is_read_in_its_form(tmp_path, name, row):
    assert form(tmp_path, row) == name
    example = row_example(tmp_path, row)
    assert example.turns == (USER, ANSWER)
    assert example.plain == (name == "prompt_completion")
    assert not example.is_pair


@pytest.mark.parametrize("row", [{"text": "Once."}, {"content": "Once."}, {"文本": "Once.", "url": "x"}])
def test_plain_text(tmp_path, row):
    example = row_example(tmp_path, row)
    assert (example.text, example.turns) == ("Once.", ())
    assert form(tmp_path, row) == "text"


def test_every_form_has_a_title_of_its_own():
    assert len({form_title(name) for name in FORMS}) == len(FORMS)


def test_an_instruction_comes_before_its_input_and_after_its_history(tmp_path):
    row = {
        "instruction": "Translate.",
        "input": "Hallo",
        "output": "Hello",
        "system": "Be brief.",
        "history": [["Hi", "Yes?"]],
    }
    example = row_example(tmp_path, row)
    assert roles(example.turns) == ["system", "user", "assistant", "user", "assistant"]
    assert contents(example.turns) == ["Be brief.", "Hi", "Yes?", "Translate.\nHallo", "Hello"]


def test_turns_are_left_out_of_the_loss_where_the_row_says_so(tmp_path):
    messages = dialogue("a", "b", "c", "d", "e", "f")
    messages[1]["train"] = False
    messages[3]["weight"] = 0
    messages[5]["weight"] = 1
    turns = row_example(tmp_path, {"messages": messages}).turns
    assert [turn.train for turn in turns if turn.role == "assistant"] == [False, False, True]


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_is_kept_apart_from_the_answer(tmp_path, key):
    messages = dialogue("1+1?", "2")
    messages[1][key] = "one and one"
    assert row_example(tmp_path, {"messages": messages}).turns[1].reasoning == "one and one"


def test_tool_calls_of_both_forms_mean_the_same(tmp_path):
    call = {"name": "find", "arguments": {"number": 17}}
    tool = {"name": "find", "description": "finds", "parameters": {"type": "object"}}
    openai = {
        "messages": [
            {"role": "user", "content": "Where?"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "type": "function",
                        "function": {"name": "find", "arguments": json.dumps(call["arguments"])},
                    }
                ],
            },
            {"role": "tool", "content": "on its way", "tool_call_id": "x"},
            {"role": "assistant", "content": "Coming."},
        ],
        "tools": [{"type": "function", "function": tool}],
    }
    sharegpt = {
        "conversations": [
            {"from": "human", "value": "Where?"},
            {"from": "function_call", "value": json.dumps(call)},
            {"from": "observation", "value": "on its way"},
            {"from": "gpt", "value": "Coming."},
        ],
        "tools": json.dumps([tool]),
    }
    one, other = row_example(tmp_path, openai), row_example(tmp_path, sharegpt)
    assert one.turns == other.turns
    assert one.tools == other.tools == ({"type": "function", "function": tool},)
    assert roles(one.turns) == ["user", "assistant", "tool", "assistant"]
    assert one.turns[1].tool_calls == ({"type": "function", "function": call},)


def test_a_word_and_the_calls_that_follow_it_are_one_turn(tmp_path):
    calls = [json.dumps({"name": name, "arguments": {}}) for name in ("find", "send")]
    row = {
        "conversations": [
            {"from": "human", "value": "Where?"},
            {"from": "gpt", "value": "I look."},
            {"from": "function_call", "value": calls[0]},
            {"from": "function_call", "value": calls[1]},
            {"from": "observation", "value": "here"},
            {"from": "observation", "value": "there"},
            {"from": "gpt", "value": "Found."},
        ]
    }
    turns = row_example(tmp_path, row).turns
    assert roles(turns) == ["user", "assistant", "tool", "tool", "assistant"]
    assert turns[1].content == "I look."
    assert [call["function"]["name"] for call in turns[1].tool_calls] == ["find", "send"]


def test_a_system_prompt_of_the_run_is_said_only_where_the_row_has_none(tmp_path):
    rows = [
        {"messages": dialogue("a", "b")},
        {"messages": [{"role": "system", "content": "own"}, *dialogue("a", "b")]},
        {"messages": [{"role": "system", "content": " "}, *dialogue("a", "b")]},
        {"messages": dialogue("a", "b"), "system": "beside"},
    ]
    examples, texts = read(write_jsonl(tmp_path / "a.jsonl", rows), system="run")
    assert texts.problems == []
    assert [example.turns[0].content for example in examples] == ["run", "own", "run", "beside"]
    assert roles(row_example(tmp_path, {"prompt": "a", "completion": "b"}, system="run").turns) == [
        "user",
        "assistant",
    ]
    assert row_example(tmp_path, {"text": "a"}, system="run").turns == ()


PAIRS = [
    {"prompt": "When?", "chosen": "Soon.", "rejected": "No idea."},
    {
        "prompt": dialogue("When?"),
        "chosen": dialogue("", "Soon.")[1:],
        "rejected": dialogue("", "No idea.")[1:],
    },
    {"chosen": dialogue("When?", "Soon."), "rejected": dialogue("When?", "No idea.")},
    {"prompt": "When?", "chosen": dialogue("When?", "Soon."), "rejected": dialogue("When?", "No idea.")},
    {
        "conversations": [{"from": "human", "value": "When?"}],
        "chosen": {"from": "gpt", "value": "Soon."},
        "rejected": {"from": "gpt", "value": "No idea."},
    },
    {"question": "When?", "chosen": "Soon.", "rejected": "No idea."},
    {"instruction": "When?", "input": "", "chosen": "Soon.", "rejected": "No idea."},
]


@pytest.mark.parametrize("row", PAIRS)
def test_preference_pairs(tmp_path, row):
    example = row_example(tmp_path, row)
    assert form(tmp_path, row) == "preference"
    assert example.is_pair
    assert (example.turns, example.chosen, example.rejected) == (
        (USER,),
        (ANSWER,),
        (Turn("assistant", "No idea."),),
    )
    assert example.plain == (row.get("prompt") == "When?" and isinstance(row["chosen"], str))


def test_whole_conversations_part_where_they_differ(tmp_path):
    row = {"chosen": dialogue("a", "b", "c", "d"), "rejected": dialogue("a", "b", "c", "x")}
    example = row_example(tmp_path, row)
    assert contents(example.turns) == ["a", "b", "c"]
    assert (contents(example.chosen), contents(example.rejected)) == (["d"], ["x"])


def test_a_conversational_prompt_is_not_learnt(tmp_path):
    row = {"prompt": dialogue("a", "b", "c"), "completion": dialogue("", "d")[1:]}
    example = row_example(tmp_path, row)
    assert [turn.train for turn in example.turns if turn.role == "assistant"] == [False, True]
    assert not example.plain
    assert row_example(tmp_path, {**row, "completion": "d"}) == example


def test_columns_by_the_users_own_word(tmp_path):
    row = {"标题": "When?", "正文": "Soon.", "备注": "x"}
    example = row_example(tmp_path, row, columns={"prompt": "标题", "completion": "正文"})
    assert example.turns == (USER, ANSWER)
    assert row_example(tmp_path, row, columns={"text": "正文"}).text == "Soon."
    odd = {"prompt": "junk", "instruction": "junk", "q": "When?", "answer": "Soon."}
    assert row_example(tmp_path, odd, columns={"prompt": "q"}).turns == (USER, ANSWER)
    chats = {"text": "junk", "dialog": dialogue("When?", "Soon.")}
    assert row_example(tmp_path, chats, columns={"messages": "dialog"}).turns == (USER, ANSWER)


COUNTS = {
    "alpaca_en_demo.json": ("alpaca", 999),
    "alpaca_zh_demo.json": ("alpaca", 1000),
    "identity.json": ("alpaca", 91),
    "c4_demo.jsonl": ("text", 300),
    "dpo_zh_demo.json": ("preference", 300),
    "glaive_toolcall_zh_demo.json": ("sharegpt", 300),
}


@pytest.mark.parametrize("name", COUNTS)
def test_real_data_sets_are_read_whole(name):
    path = REAL / name
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    examples, texts = read(path)
    expected, count = COUNTS[name]
    assert (list(texts.forms.values()), list(texts.counts.values())) == ([expected], [count])
    assert len(examples) == count
    assert [p.code for p in texts.problems] == (["LS2170"] if name == "identity.json" else [])
    lines = [example.where.line for example in examples]
    assert lines == sorted(set(lines))
    text = path.read_text(encoding="utf-8").split("\n")
    assert all(text[line - 1].lstrip().startswith("{") for line in lines)
    if name == "identity.json":
        assert texts.problems[0].params["count"] == 85
    if name == "dpo_zh_demo.json":
        assert all(example.is_pair and example.turns[-1].role == "user" for example in examples)
        assert sum(example.turns[0].role == "system" for example in examples) == 64
    if name.startswith("glaive"):
        calls = [call for e in examples for turn in e.turns for call in turn.tool_calls]
        assert len(calls) == 216
        assert all(isinstance(call["function"]["arguments"], dict) for call in calls)
