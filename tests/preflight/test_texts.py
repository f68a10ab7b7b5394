"""Checks of a text data set: what is planned, proven, warned about and refused, on small tokenizers."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from lora_scripts.core.catalogue import render, use_language
from lora_scripts.core.problems import errors
from lora_scripts.preflight.checks.text_lines import micro_batches, shared_tokens
from lora_scripts.preflight.checks.text_split import examples_of
from lora_scripts.preflight.checks.texts import length_groups
from tests.preflight.text_cases import ROWS, answer_of, check, codes, write, wrong
from tests.texts.small import chat_tokenizer, plain_tokenizer


@pytest.fixture
def data(tmp_path):
    return tmp_path / "rows.jsonl"


def test_a_report_says_what_is_learnt_and_in_how_many_steps(data):
    write(data, ROWS)
    report, problems = check(data, batch_size=4, gradient_accumulation_steps=2, epochs=2)
    assert problems == []
    assert (len(report.table), len(report.train), len(report.validation)) == (30, 27, 3)
    assert sorted([*report.train, *report.validation]) == list(range(30))
    assert report.plan is not None
    assert (report.plan.windows_per_epoch, report.total_steps) == (4, 8)
    assert (report.objective, report.max_length, report.context) == ("sft", 256, 256)
    assert answer_of(report, 5) == "Parcel 5 is on its way.<|im_end|>"
    text = "\n".join(report.lines())
    for part in (
        "Rows: 30",
        "Trained on: 27 rows per epoch. Held out for validation: 3.",
        "Chat template: the base's own.",
        "the template's own: You are a helpful assistant.",
        "<|im_end|> carries loss in 27 of 27 rows",
        "⟦Parcel 0 is on its way.<|im_end|>⟧",
        "27 rows / (4 batch_size x 2 gradient_accumulation_steps) = 4",
        "4 x 2 epochs = 8",
        "laid end to end without padding",
    ):
        assert part in text
    learnt = int(report.table.loss_tokens[report.train].sum())
    total = int(report.table.lengths[report.train].sum())
    assert f"Tokens with loss: {learnt:,} of {total:,}" in text
    use_language("zh")
    assert "27 行中有 27 行的 <|im_end|> 参与损失" in "\n".join(report.lines())


def test_steps_by_max_steps(data):
    write(data, ROWS)
    report, _ = check(data, batch_size=9, max_steps=7)
    assert report.total_steps == 7
    assert "7 (max_steps), which is 2.3 times" in "\n".join(report.lines())


def test_a_terminal_shows_what_is_learnt_in_colour(data, monkeypatch):
    write(data, ROWS)
    report, _ = check(data)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr("sys.stdout", SimpleNamespace(isatty=lambda: True))
    assert "\x1b[32mParcel 0 is on its way.<|im_end|>\x1b[0m" in "\n".join(report.lines())
    monkeypatch.setenv("NO_COLOR", "1")
    assert "⟦Parcel 0" in "\n".join(report.lines())


def test_text_of_a_row_cannot_command_the_terminal(data):
    write(data, [{"prompt": "a\x1b]0;owned\x07b", "completion": "c\x9b31md"}])
    report, _ = check(data)
    shown = "\n".join(report.lines())
    assert not {"\x1b", "\x07", "\x9b"} & set(shown)
    assert "]0;owned" in shown


def test_no_character_is_cut_in_half_where_an_example_is(data):
    """Half a character looks like damage that is not there."""
    for prompt in ("@", "@@", "@@@", "龘" * 40):
        write(data, [{"prompt": prompt, "completion": "龘" * 60}])
        shown = "\n".join(check(data)[0].lines())
        assert "龘⟧…" in shown
        assert "\N{REPLACEMENT CHARACTER}" not in shown


def test_bad_rows_stop_the_run_and_leave_no_table(data):
    write(data, [*ROWS[:3], {"prompt": "no answer"}, *ROWS[3:]])
    problems = wrong(data)
    assert [str(problem.where).rpartition(":")[2] for problem in problems] == ["4"]
    assert not list((data.parent / "cache").rglob("*.arrow"))


def test_what_the_template_refuses_is_named_by_line_and_can_be_skipped(data, tmp_path):
    template = tmp_path / "strict.jinja"
    template.write_text(
        "{% for m in messages %}{% if 'parcel 7' in m.content %}{{ raise_exception('no sevens') }}{% endif %}"
        "{{ m.role + ':' + m.content + '<|im_end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    write(data, ROWS)
    [problem] = wrong(data, chat_template=str(template))
    assert (problem.code, problem.params["reason"]) == ("LS2203", "no sevens")
    assert str(problem.where).endswith("rows.jsonl:8")
    report, problems = check(data, chat_template=str(template), on_bad_row="skip")
    assert len(report.table) == 29
    assert codes(problems) == ["LS2190"]
    [problem] = problems
    assert (problem.code, problem.severity) == ("LS2190", "warning")
    assert "no sevens" in render(problem)
    assert "left out: 1" in "\n".join(report.lines())


def test_hundreds_of_refused_rows_are_counted_and_not_listed(data):
    call = {"function": {"name": "weather", "arguments": {}}}
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
    write(data, [{"messages": turns}] * 150)
    problems = wrong(data)
    assert codes(problems) == ["LS2204"] * 100 + ["LS2191"]


def test_a_base_without_a_template_is_said_once(data):
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    write(data, [{"messages": turns}] * 50)
    problems = wrong(data, tokenizer=plain_tokenizer())
    assert codes(problems) == ["LS2200"]
    assert "chat_template: llama2" in render(problems[0])
    report, _ = check(data, tokenizer=plain_tokenizer(), chat_template="llama2")
    assert "Chat template: llama2." in "\n".join(report.lines())


def test_a_length_beyond_the_context_is_an_error_beside_the_others(data):
    write(data, ROWS)
    report, problems = check(data, context=128, max_length=500)
    assert codes(problems) == ["LS1030"]
    assert report.max_length == 128
    assert "500 is more than the 128" in render(problems[0])
    assert check(data, context=9999)[0].max_length == 2048
    write(data, [{"prompt": "no answer"}])
    assert codes(wrong(data, context=128, max_length=500))[0] == "LS1030"


def test_nothing_to_learn_is_an_error(data):
    write(data, [{"prompt": "on and on " * 100, "completion": f"{n}"} for n in range(12)])
    report, problems = check(data)
    assert codes(problems) == ["LS2208", "LS2213"]
    assert "of 12 rows" in render(problems[0])
    assert [problem.severity for problem in problems] == ["error", "warning"]
    assert report.plan is None
    assert report.total_steps == 0
    assert "Nothing to learn" in report.lines()[0]


def test_rows_that_a_tokenizer_finds_nothing_to_learn_in_are_named(data):
    tokenizer = chat_tokenizer()
    tokenizer.encode_conversation = lambda turns, tools=(): [
        ([5, 6, 7], [False, False, "7" not in turns[0].content])
    ]
    write(data, ROWS)
    report, problems = check(data, tokenizer=tokenizer)
    assert codes(problems)[0] == "LS2225"
    assert problems[0].params["count"] == 3
    assert len(report.table) == 27


def test_an_end_that_is_never_learnt_is_an_error(data):
    tokenizer = plain_tokenizer()
    tokenizer.eos_token = None
    write(data, ROWS)
    _, problems = check(data, tokenizer=tokenizer, chat_template="chatglm2")
    assert codes(errors(problems)) == ["LS2217"]


def test_a_token_that_the_model_does_not_know_is_an_error(data):
    write(data, ROWS)
    _, problems = check(data, vocabulary=300)
    assert codes(errors(problems)) == ["LS2221"]


def test_few_rows_are_warned_about(data):
    write(data, ROWS[:4])
    report, problems = check(data)
    assert codes(problems) == ["LS2222"]
    assert len(report.validation) == 0


def test_a_template_with_tokens_that_the_base_lacks_is_warned_about(data):
    write(data, ROWS)
    _, problems = check(data, tokenizer=plain_tokenizer(), chat_template="chatml")
    assert codes(problems) == ["LS2223"]
    assert problems[0].params["tokens"] == "<|im_start|>, <|im_end|>"
    assert check(data, chat_template="chatml")[1] == []


@pytest.mark.parametrize(
    ("on_long", "expected"),
    [("truncate", ["LS2210", "LS2213"]), ("split", ["LS2210", "LS2213"]), ("drop", ["LS2212"])],
)
def test_long_rows_are_named(data, on_long, expected):
    long = "on and on " * 100
    write(data, [*ROWS, {"prompt": "Hi", "completion": long}, {"prompt": long, "completion": "Hi"}])
    report, problems = check(data, on_long_row=on_long)
    assert codes(problems) == expected
    assert "rows.jsonl:31" in str(problems[0].params["names"])
    assert "rows.jsonl:32" in str(problems[-1].params["names"])
    assert int(report.table.lengths.max()) <= 256
    assert len(report.table) == (30 if on_long == "drop" else 31)


def test_long_texts_are_split_and_stay_on_one_side(data):
    write(data, [{"text": f"Parcel {n} left the warehouse. " * 20} for n in range(40)])
    report, problems = check(data, tokenizer=plain_tokenizer(), max_length=64, on_long_row="split")
    assert codes(problems) == ["LS2211"]
    assert problems[0].severity == "note"
    examples = examples_of(report.table)
    assert len(set(examples)) == 40
    assert len(set(examples[report.validation])) == 4
    assert not set(examples[report.validation]) & set(examples[report.train])
    assert "Plain texts" in "\n".join(report.lines())


def test_tools_that_the_template_does_not_tell_of_are_warned_about(data):
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    write(data, [*({"messages": turns, "tools": tools} for _ in range(12))])
    _, problems = check(data)
    assert "LS2224" in codes(problems)
    assert "LS2224" not in codes(check(data, chat_template="chatml")[1])


def test_control_tokens_in_what_is_said_are_named(data):
    turned = "<|im_start|>user\nOpen?<|im_end|>\n<|im_start|>assistant\n"
    write(data, [*ROWS, {"prompt": turned, "completion": "Till six.<|im_end|>"}])
    _, problems = check(data)
    assert codes(problems) == ["LS2227"]
    assert problems[0].severity == "warning"
    assert "1 rows spell control tokens" in render(problems[0])
    assert "(<|im_end|>, <|im_start|>): rows.jsonl:31" in render(problems[0])


def test_in_plain_texts_control_tokens_may_be_meant(data):
    write(data, [{"text": f"Document {n}.<|im_end|>"} for n in range(12)])
    assert "LS2227" not in codes(check(data)[1])


def test_repetitions_are_named_and_held_out_last(data):
    twins = [{"prompt": "Open?", "completion": "Till six."}] * 3
    same_prompt = [{"prompt": "Closed?", "completion": text} for text in ("Yes.", "No.")]
    write(data, [*ROWS, *twins, *same_prompt])
    report, problems = check(data)
    assert codes(problems) == ["LS2214"]
    assert problems[0].params["count"] == 2
    assert all(number < 30 for number in report.validation)
    assert len(report.validation) == 4


def test_held_out_rows_that_are_trained_on_are_named(data):
    write(data, ROWS)
    held = data.parent / "held.jsonl"
    write(
        held,
        [
            ROWS[3],
            {"prompt": ROWS[4]["prompt"], "completion": "Lost."},
            {"prompt": "New", "completion": "Yes"},
        ],
    )
    report, problems = check(data, validation={"data_dir": str(held)})
    assert codes(problems) == ["LS2215", "LS2216"]
    assert "held.jsonl:1" in str(problems[0].params["names"])
    assert "held.jsonl:2" in str(problems[1].params["names"])
    assert len(report.train) == 30
    assert len(report.validation) == 3
    assert f"Validated on 3 rows of {held}" in "\n".join(report.lines())
    assert len(report.files) == 2


def test_files_are_mixed_by_weight(data):
    other = data.parent / "other.jsonl"
    write(data, ROWS)
    write(other, [{"prompt": f"Say {n}", "completion": str(n)} for n in range(10)])
    mixed = [{"path": str(data), "weight": 0.5}, {"path": str(other), "weight": 2}]
    report, _ = check(data, metadata_path=None, datasets=mixed, validation={"split": 0})
    numbers, times = np.unique(report.train, return_counts=True)
    files = report.table.file_numbers[numbers]
    assert (times[files == 0].tolist(), times[files == 1].tolist()) == ([1] * 15, [2] * 10)


def test_a_file_that_datasets_leaves_aside_is_named(data):
    other = data.parent / "other.jsonl"
    write(data, ROWS)
    write(other, ROWS[:20])
    _, problems = check(data, datasets=[{"path": str(other)}])
    assert [(problem.code, problem.severity) for problem in problems] == [("LS2226", "warning")]
    assert str(data) in render(problems[0])
    assert check(data, datasets=[{"path": str(other)}, {"path": str(data)}])[1][0].code != "LS2226"
    assert check(data, metadata_path=None, datasets=[{"path": str(other)}])[1] == []


def pairs(count: int) -> list[dict]:
    return [
        {"prompt": f"Open on day {n}?", "chosen": f"Till six on {n}.", "rejected": "No."}
        for n in range(count)
    ]


def test_pairs_are_learnt_as_preferences_or_by_their_chosen_answers(data):
    write(data, pairs(30))
    report, problems = check(data)
    assert (report.objective, problems) == ("dpo", [])
    assert report.table.pairs == 30
    text = "\n".join(report.lines())
    assert "⟦Till six on 0.<|im_end|>⟧" in text
    assert "⟦No.<|im_end|>⟧" in text
    assert check(data, objective="orpo")[0].objective == "orpo"
    report, problems = check(data, objective="sft")
    assert (report.objective, report.table.pairs, problems) == ("sft", 0, [])
    assert answer_of(report, 7) == "Till six on 7.<|im_end|>"


def test_an_objective_needs_its_kind_of_rows(data):
    write(data, ROWS)
    _, problems = check(data, objective="dpo")
    assert codes(problems) == ["LS2218"]
    other = data.parent / "pairs.jsonl"
    write(other, pairs(5))
    both = [{"path": str(data)}, {"path": str(other)}]
    _, problems = check(data, metadata_path=None, datasets=both)
    assert codes(problems) == ["LS2219"]
    assert check(data, metadata_path=None, datasets=both, objective="sft")[1] == []


def test_padding_is_counted_and_rows_of_a_length_are_computed_together(data):
    write(data, [{"prompt": "Hi", "completion": "on " * (n % 60 + 1)} for n in range(200)])
    report, _ = check(data, packing=False, batch_size=8, validation={"split": 0})
    assert report.plan is not None
    lengths = report.table.lengths[report.train]
    used = places = batches = 0
    for window in report.plan.epoch(0):
        for batch in window:
            inside = lengths[list(batch.indices)]
            batches += 1
            used += int(inside.sum())
            places += len(inside) * int(inside.max())
    mean, wasted = micro_batches(report)
    assert wasted == pytest.approx(1 - used / places)
    assert wasted < 0.1
    assert mean == pytest.approx(used / batches)
    assert "of the places are padding" in "\n".join(report.lines())
    groups = length_groups(np.array([64, 65, 75, 77, 128]))
    assert groups.tolist() == [24, 24, 24, 25, 28]


def test_progress_counts_rows(data):
    write(data, ROWS * 40)
    seen: list[tuple[str, int, int]] = []
    check(data, progress=lambda *event: seen.append(event))
    assert seen == [("tokens", 500, 1200), ("tokens", 1000, 1200), ("tokens", 1200, 1200)]


def test_the_plan_says_what_a_shared_beginning_saves(data):
    asked = [{"role": "system", "content": "You answer for a shop. " * 8}]
    talks = [
        [*asked, {"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": f"{n}!"}]
        for n in range(12)
    ]
    write(data, [{"messages": talk} for talk in talks])
    settings = {"batch_size": 4, "validation": {"split": 0}}
    report, _ = check(data, **settings)
    length = int(report.table.lengths[0])
    share = shared_tokens(report)
    # Three of four rows lack what they share with the first: nearly all.
    assert 0.6 < share < 0.75 < (length - 12) / length
    assert f"computed once: {100 * share:.0f} % fewer tokens" in "\n".join(report.lines())
    for other in ({"packing": False}, {"lora_dropout": 0.1}, {"batch_size": 1}):
        assert "computed once" not in "\n".join(check(data, **(settings | other))[0].lines())
