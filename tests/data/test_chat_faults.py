"""Every bad row is named with its file and line, says what is wrong, and does not stop the others."""

from __future__ import annotations

import json

import pytest

from lora_scripts.core.catalogue import render
from lora_scripts.data.row_faults import SHOWN
from tests.data.text_cases import codes, dialogue, faults, read, write_jsonl

GOOD = {"messages": dialogue("When?", "Soon.")}
SYSTEM = {"role": "system", "content": "Be brief."}
TOOL = {"role": "tool", "content": "17"}


def chat(*messages):
    return {"messages": list(messages)}


def turn(role, content="x", **rest):
    return {"role": role, "content": content, **rest}


CALL = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
BAD = {
    "LS2120": ['{"messages": nothing}', '{"messages" "x"}', '{"messages": "a\\q"}', "nothing", "[" * 5000],
    "LS2121": ["{'messages': []}", '{"messages": [\'a\']}'],
    "LS2122": ['{"messages": [1,]}', '{"messages": [], }'],
    "LS2124": ['{"messages": [', '{"messages": "never closed', '{"messages"'],
    "LS2125": [json.dumps(GOOD) + ","],
    "LS2126": [json.dumps(GOOD) * 2, json.dumps(GOOD) + " x"],
    "LS2127": ['{“messages”: []}', '{"messages"：[]}', '{"messages": []， "x": 1}'],
    "LS2128": ["7", '"text"', "null", '["a", "b"]', "true"],
    "LS2131": [chat(turn("user"), turn("assistant", "")), chat(turn("user"), turn("assistant", " \n"))],
    "LS2132": [chat(turn("user", ""), turn("assistant"))],
    "LS2133": [chat(turn("user"), turn("narrator"))],
    "LS2134": [chat(turn("user"), turn("asistant")), chat(turn("usr"), turn("assistant"))],
    "LS2135": [chat(turn("user"), turn("user"), turn("assistant"))],
    "LS2136": [chat(turn("user"), turn("assistant"), turn("assistant"))],
    "LS2137": [chat(turn("assistant"), turn("user"), turn("assistant")), chat(SYSTEM, turn("assistant"))],
    "LS2138": [
        chat(turn("user"), SYSTEM, turn("assistant")),
        chat(SYSTEM, SYSTEM, turn("user"), turn("assistant")),
    ],
    "LS2139": [
        chat(turn("user")),
        chat(turn("user"), turn("assistant"), turn("user")),
        chat(turn("user"), CALL, TOOL),
    ],
    "LS2140": [
        chat(turn("user", 7), turn("assistant")),
        chat(turn("user", {"a": 1}), turn("assistant")),
        chat(turn(7), turn("assistant")),
        chat("hello", turn("assistant")),
        chat(turn("user"), turn("assistant", train="no")),
        chat(turn("user"), turn("assistant", weight="0")),
        chat(turn("user"), turn("assistant", reasoning=[1])),
        {"messages": "hello"},
        {"messages": 7},
        {"messages": None},
    ],
    "LS2141": [json.dumps(chat(turn("user", "\ud83d"), turn("assistant")))],
    "LS2142": [chat(turn("user", "a\0b"), turn("assistant")), chat(turn("user"), turn("assistant", "\0"))],
    "LS2143": [chat()],
    "LS2144": [chat({"content": "x"}, turn("assistant")), chat({"role": "user"}, turn("assistant"))],
    "LS2145": [chat(turn("user"), TOOL, turn("assistant")), chat(TOOL, turn("user"), turn("assistant"))],
    "LS2146": [
        chat(turn("user"), turn("assistant", None, tool_calls=[{"function": {"arguments": "{}"}}])),
        chat(turn("user"), {**CALL, "tool_calls": [{"name": "f", "arguments": "{"}]}),
        chat(turn("user"), turn("assistant", None, tool_calls="f")),
        {"conversations": [{"from": "human", "value": "x"}, {"from": "function_call", "value": "find(17)"}]},
    ],
    "LS2150": [chat(turn("user", [{"type": "image_url", "image_url": "x"}]), turn("assistant"))],
    "LS2151": [chat(turn("user"), turn("assistant", train=False))],
    "LS2153": [{**GOOD, "tools": "find"}, {**GOOD, "tools": [{"description": "x"}]}],
}  # fmt: skip


@pytest.mark.parametrize(("code", "row"), [(code, row) for code, rows in BAD.items() for row in rows])
def test_a_bad_row_is_named_by_its_line_between_good_ones(tmp_path, code, row):
    good = {"conversations": [{"from": "human", "value": "x"}, {"from": "gpt", "value": "y"}]}
    good = good if isinstance(row, dict) and "conversations" in row else GOOD
    path = write_jsonl(tmp_path / "rows.jsonl", [good, row, good])
    examples, texts = read(path)
    assert codes(texts.problems) == [code]
    problem = texts.problems[0]
    assert (problem.where.file, problem.where.line, problem.severity) == (str(path), 2, "error")
    assert [example.where.line for example in examples] == [1, 3]
    for lang in ("en", "zh"):
        assert "Line 2: Invalid format" in render(problem, lang)


OTHER_FORMS = {
    "LS2130": [
        ({"question": "a", "answer": "b"}, {"question": "a"}),
        ({"instruction": "a", "output": "b"}, {"instruction": "a", "output": None}),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, {"prompt": "a", "chosen": "b"}),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, {"chosen": "b", "rejected": "c"}),
        ({"prompt": "a", "completion": "b"}, {"prompt": dialogue("a"), "completion": None}),
        ({"text": "a"}, {"text": None}),
    ],
    "LS2131": [
        ({"问题": "a", "回答": "b"}, {"问题": "a", "回答": " "}),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, {"prompt": "a", "chosen": "", "rejected": "c"}),
    ],
    "LS2132": [
        ({"instruction": "a", "output": "b"}, {"instruction": "", "input": "", "output": "b"}),
        ({"text": "a"}, {"text": "\n"}),
    ],
    "LS2140": [
        ({"question": "a", "answer": "b"}, {"question": "a", "answer": 7}),
        ({"instruction": "a", "output": "b"}, {"instruction": "a", "input": [1], "output": "b"}),
        ({"text": "a"}, {"text": 7.5}),
    ],
    "LS2147": [
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, {"prompt": "a", "chosen": "b", "rejected": "b"}),
    ],
    "LS2149": [
        (
            {"chosen": dialogue("a", "b"), "rejected": dialogue("a", "c")},
            {"chosen": dialogue("a", "b"), "rejected": dialogue("x", "c")},
        ),
        (
            {"chosen": dialogue("a", "b"), "rejected": dialogue("a", "c")},
            {"chosen": dialogue("a", "b", "c", "d"), "rejected": dialogue("a", "b", "x", "y")},
        ),
        (
            {"chosen": dialogue("a", "b"), "rejected": dialogue("a", "c")},
            {"chosen": dialogue("a", "b"), "rejected": dialogue("a", "b", "c", "d")},
        ),
    ],
    "LS2152": [
        ({"instruction": "a", "output": "b"}, {"instruction": "a", "output": "b", "history": [["a"]]}),
        ({"instruction": "a", "output": "b"}, {"instruction": "a", "output": "b", "history": "a"}),
        ({"instruction": "a", "output": "b"}, {"instruction": "a", "output": "b", "history": [["a", ""]]}),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("code", "pair"), [(code, pair) for code, pairs in OTHER_FORMS.items() for pair in pairs]
)
def test_what_a_form_needs_is_missed_by_line(tmp_path, code, pair):
    good, bad = pair
    assert faults(tmp_path, good, bad, good) == [(code, 2)]


@pytest.mark.parametrize("thought", ["<think>\n\n</think>\n\n", " <think>Two and two.\nFour.</think>"])
def test_reasoning_without_an_answer_behind_it_is_an_empty_answer(tmp_path, thought):
    rows = [chat(turn("user"), turn("assistant", thought)), {"question": "When?", "answer": thought}]
    for row in (*rows, {"prompt": "When?", "chosen": "Soon.", "rejected": thought}):
        assert faults(tmp_path, row) == [("LS2131", 1)]
    calls = [{"function": {"name": "find", "arguments": "{}"}}]
    assert faults(tmp_path, chat(turn("user"), turn("assistant", thought, tool_calls=calls))) == []
    assert faults(tmp_path, chat(turn("user"), turn("assistant", thought + "4" + thought))) == []


def test_a_part_of_a_message_without_its_text_is_not_called_a_text(tmp_path):
    row = chat(turn("user", [{"type": "text", "text": None}]), turn("assistant"))
    _, texts = read(write_jsonl(tmp_path / "a.jsonl", [row]))
    assert [(p.code, p.params["kind"]) for p in texts.problems] == [("LS2150", "null")]


def test_all_bad_rows_are_named_at_once(tmp_path):
    found = faults(tmp_path, GOOD, "{", chat(turn("user")), GOOD, chat(), "{'a': 1}")
    assert found == [("LS2124", 2), ("LS2139", 3), ("LS2143", 5), ("LS2121", 6)]


def test_a_long_list_is_cut_and_counted(tmp_path):
    _, texts = read(write_jsonl(tmp_path / "a.jsonl", [GOOD, *[chat(turn("user"))] * (SHOWN + 7)]))
    assert codes(texts.problems) == ["LS2139"] * SHOWN + ["LS2191"]
    assert texts.problems[-1].params["count"] == 7
    assert texts.problems[-1].where.line == SHOWN + 2
    assert sum(texts.left_out.values()) == SHOWN + 7


def test_bad_rows_may_be_left_out_and_counted(tmp_path):
    rows = [GOOD, chat(turn("user")), GOOD, chat(turn("user")), "{"]
    examples, texts = read(write_jsonl(tmp_path / "a.jsonl", rows), on_bad_row="skip")
    assert len(examples) == 2
    assert [(p.severity, p.params["count"], p.where.line) for p in texts.problems] == [
        ("warning", 2, 2),
        ("warning", 1, 5),
    ]
    assert "Line 2: Invalid format" in render(texts.problems[0], "en")
    _, texts = read(write_jsonl(tmp_path / "b.jsonl", [chat()] * 3), on_bad_row="skip")
    assert codes(texts.problems) == ["LS2119", "LS2190"]


def test_mixed_forms_are_one_error_that_shows_a_line_of_each(tmp_path):
    alpaca = {"instruction": "Say hi.", "output": "hi"}
    rows = [GOOD, alpaca, GOOD, alpaca, {"text": "x"}]
    examples, texts = read(write_jsonl(tmp_path / "a.jsonl", rows))
    assert [(p.code, p.where.line) for p in texts.problems] == [("LS2110", 2), ("LS2110", 5)]
    params = texts.problems[0].params
    assert (params["line"], params["other_line"]) == (1, 2)
    assert "When?" in params["row"]
    assert "Say hi." in params["other_row"]
    assert len(examples) == 2
    sharegpt = {"conversations": [{"from": "human", "value": "x"}, {"from": "gpt", "value": "y"}]}
    assert faults(tmp_path, GOOD, sharegpt) == [("LS2110", 2)]


def test_an_unknown_form_lists_what_it_has_and_what_could_be(tmp_path):
    _, texts = read(write_jsonl(tmp_path / "a.jsonl", [{"titel": "x", "zahl": 1}] * 5))
    assert codes(texts.problems) == ["LS2111"]
    assert "titel, zahl" in render(texts.problems[0], "en")
    _, texts = read(write_jsonl(tmp_path / "a.jsonl", [{"instructon": "x", "output": "y"}]))
    assert codes(texts.problems) == ["LS2112"]
    assert texts.problems[0].params["near"] == "instruction"
    assert faults(tmp_path, {"conversatons": []}) == [("LS2112", 1)]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "a", "completion": "b", "label": True},
        {"messages": dialogue("a", "b"), "label": False},
        {"instruction": "a", "output": "b", "kto_tag": True},
    ],
)
def test_marks_on_single_answers_are_not_read_as_answers_to_learn(tmp_path, row):
    assert faults(tmp_path, row) == [("LS2113", 1)]


def test_columns_that_are_not_there_are_named(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [{"Frage": "a", "Antwort": "b"}] * 3)
    _, texts = read(path, columns={"prompt": "Frag", "completion": "Antwort"})
    assert codes(texts.problems) == ["LS2114"]
    assert texts.problems[0].params["near"] == "Frage"
    _, texts = read(path, columns={"promt": "Frage"})
    assert codes(texts.problems) == ["LS1031"]
    assert texts.problems[0].params["near"] == "prompt"


def test_blanks_that_nobody_filled_in_are_a_warning(tmp_path):
    rows = [GOOD, {"messages": dialogue("Who?", "I am {{name}} of {{ 公司 }}.")}]
    _, texts = read(write_jsonl(tmp_path / "a.jsonl", rows))
    assert [(p.code, p.severity, p.where.line) for p in texts.problems] == [("LS2170", "warning", 2)]
    assert texts.problems[0].params["count"] == 1
    assert faults(tmp_path, {"text": "f(x) = {{x + 1}} and \\frac{{a}}{b}{{}}"}) == []


def test_a_list_in_a_file_of_lines_is_one_error(tmp_path):
    path = tmp_path / "a.jsonl"
    for text in (
        json.dumps([GOOD, GOOD]),
        json.dumps([GOOD, GOOD], indent=1),
        "[\n" + json.dumps(GOOD) + ",\n]",
    ):
        path.write_text(text, encoding="utf-8")
        examples, texts = read(path)
        assert (examples, codes(texts.problems)) == ([], ["LS2123"])


def test_the_column_of_a_fault_is_where_it_stands(tmp_path):
    _, texts = read(write_jsonl(tmp_path / "a.jsonl", [GOOD, '{"messages": [1,]}']))
    assert (texts.problems[0].where.line, texts.problems[0].where.column) in [(2, 16), (2, 17)]


def test_a_table_whose_answers_have_an_unknown_name_is_told_once_how_to_name_them(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("编号,问题,怎么说\n" + "1,何时？,很快。\n" * 5, encoding="utf-8")
    _, texts = read(path)
    assert [(p.code, p.where.line) for p in texts.problems] == [("LS2116", 2)]
    assert "columns: {completion: 怎么说}" in render(texts.problems[0], "zh")
    assert len(read(path, columns={"completion": "怎么说"})[0]) == 5


def test_rows_of_lines_that_lack_their_answers_are_all_named(tmp_path):
    bad, good = {"id": "7", "question": "When?"}, {"id": "7", "question": "When?", "answer": "Soon."}
    assert faults(tmp_path, good, bad, bad, good, bad) == [("LS2116", 2), ("LS2116", 3), ("LS2116", 5)]


@pytest.mark.parametrize(
    ("role", "near"),
    [("answer", "completion"), ("question", "prompt"), ("输出", "completion"), ("instruction", "prompt")],
)
def test_a_columns_name_on_the_wrong_side_is_told_what_it_holds(tmp_path, role, near):
    _, texts = read(write_jsonl(tmp_path / "a.jsonl", [GOOD]), columns={role: "messages"})
    assert [(p.code, p.params["near"]) for p in texts.problems] == [("LS1031", near)]


def test_objects_over_several_lines_are_one_error(tmp_path):
    path = tmp_path / "a.jsonl"
    for rows in ([GOOD] * 3, [{"question": "When?", "answer": "Soon."}] * 3):
        path.write_text("\n".join(json.dumps(row, indent=2) for row in rows), encoding="utf-8")
        examples, texts = read(path)
        assert (examples, [(p.code, p.where.line) for p in texts.problems]) == ([], [("LS2164", 1)])
