"""A conversation becomes a line that training reads."""

import json

import pytest

from lora_scripts.core.problems import ProblemsError
from lora_scripts.toolbox.conversation import Conversation


def talked(*exchanges):
    conversation = Conversation()
    for question, answer, whole in exchanges:
        conversation.add(question, answer, whole=whole)
    return conversation


def contents(row):
    return [(turn["role"], turn["content"]) for turn in row["messages"]]


def test_the_turns_of_a_conversation_go_on_with_the_next_question():
    conversation = talked(("Hi", "Hello", True))
    assert [turn["content"] for turn in conversation.turns("More?")] == ["Hi", "Hello", "More?"]
    conversation.reset()
    assert conversation.turns("New") == [{"role": "user", "content": "New"}]


def test_an_answer_that_was_cut_is_context_and_never_learnt():
    conversation = talked(("a", "b", True), ("c", "cut", False), ("d", "e", True), ("f", "cut too", False))
    row = conversation.row("Be kind.")
    assert contents(row) == [
        ("system", "Be kind."), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "cut"),
        ("user", "d"), ("assistant", "e"),
    ]  # fmt: skip
    assert [turn.get("train", True) for turn in row["messages"]] == [True] * 4 + [False] + [True] * 2
    assert talked(("a", "cut", False)).row() is None
    assert talked(("a", "", True)).row() is None


def test_conversations_gather_in_one_file_line_by_line(tmp_path):
    path = tmp_path / "folder" / "talks.jsonl"
    assert talked(("您好", "🙂", True)).save(path)
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert talked(("Hi", "Ho", True)).save(path, "Be kind.")
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert [contents(row)[-1] for row in rows] == [("assistant", "🙂"), ("assistant", "Ho")]
    assert not Conversation().save(tmp_path / "none.jsonl")
    assert not (tmp_path / "none.jsonl").exists()


def test_what_was_saved_is_read_by_training(tmp_path):
    from lora_scripts.data.text_sources import TextSource, open_texts

    path = tmp_path / "talks.jsonl"
    talked(("Hi", "Hello", True), ("c", "cut", False), ("d", "e", True)).save(path, "Be kind.")
    (example,) = open_texts([TextSource(str(path))], on_bad_row="stop", system=None)
    assert [(turn.role, turn.content, turn.train) for turn in example.turns][-3:] == [
        ("assistant", "cut", False),
        ("user", "d", True),
        ("assistant", "e", True),
    ]


def test_where_it_cannot_be_saved_is_said(tmp_path):
    conversation = talked(("Hi", "Hello", True))
    for path in (tmp_path / "talks.txt", tmp_path, tmp_path / "file.jsonl" / "x.jsonl"):
        (tmp_path / "file.jsonl").write_text("")
        with pytest.raises(ProblemsError) as error:
            conversation.save(path)
        assert error.value.problems[0].code == "LS4355"
