"""Bases that encode conversations themselves, control tokens by number: toy ChatGLM2 and ChatGLM3."""

from __future__ import annotations

import pytest

from lora_scripts.core.problems import Problem
from lora_scripts.families._source import find, resolve
from lora_scripts.preflight.checks.texts import check_texts
from tests.families import chatglm_toy as toy
from tests.preflight.text_cases import ROWS, codes, config_of, write


@pytest.fixture(scope="module", params=[2, 3])
def base(request, tmp_path_factory):
    source = resolve(
        str(toy.write(tmp_path_factory.mktemp("base") / f"chatglm{request.param}-toy", request.param))
    )
    return find("auto", source), source


def check(base, path, **options):
    family, source = base
    return check_texts(config_of(path, **options), family, family.describe(source), source)  # type: ignore[arg-type]


def test_conversations_are_encoded_by_the_tokenizer(base, tmp_path):
    path = tmp_path / "rows.jsonl"
    talk = [
        {"role": "user", "content": "请问保修期？"},
        {"role": "assistant", "content": "三年。<|user|>"},
        {"role": "user", "content": "Open?"},
        {"role": "assistant", "content": "Till six."},
    ]
    write(
        path,
        [
            {"messages": talk},
            *({"messages": [{"role": "user", "content": str(n)}, talk[-1]]} for n in range(29)),
        ],
    )
    report, problems = check(base, path, validation={"split": 0})
    assert codes(problems) == []
    tokenizer = report.chat.tokenizer
    turns = [type("T", (), {**turn, "train": True, "tool_calls": (), "reasoning": None})() for turn in talk]
    expected = tokenizer.encode_conversation(turns)
    rows = [report.table.row(number) for number in range(len(expected))]
    assert [row.ids.tolist() for row in rows] == [ids for ids, _ in expected]
    assert [row.targets.tolist() for row in rows] == [targets for _, targets in expected]
    # What a message spells out is text: the control token stands only where a user's turn begins.
    control = tokenizer.words.ids["<|user|>"]
    assert sum((row.ids == control).sum() for row in rows) == (2 if len(rows) == 1 else 0)
    assert "</s> carries loss in" in "\n".join(report.lines())


def test_documents_are_read_as_sentencepiece_reads_them(base, tmp_path):
    path = tmp_path / "rows.jsonl"
    texts = [f"{text} {n}" for n in range(3) for text in toy.ROWS]
    write(path, [{"text": text} for text in texts])
    report, _ = check(base, path, validation={"split": 0})
    tokenizer = report.chat.tokenizer
    start = tokenizer.convert_tokens_to_ids(["[gMASK]", "<sop>"])
    for number, text in enumerate(texts):
        row = report.table.row(number)
        assert row.ids.tolist() == [*start, *tokenizer.words.encode(text), tokenizer.words.end]
        assert row.targets.tolist() == [False, False] + [True] * (len(row.ids) - 2)


def test_every_text_is_shown_to_the_family_until_it_objects(base, tmp_path, monkeypatch):
    path = tmp_path / "rows.jsonl"
    write(path, ROWS)
    seen: list[str] = []

    def verify(tokenizer, texts):
        seen.extend(texts)
        return (
            Problem("LS4157", {"text": "parcel 3"}, severity="warning") if "parcel 3?" in seen[-2] else None
        )

    monkeypatch.setattr(base[0], "verify", verify, raising=False)
    _, problems = check(base, path)
    assert codes(problems) == ["LS4157"]
    assert seen == [text for row in ROWS[:4] for text in row.values()]
