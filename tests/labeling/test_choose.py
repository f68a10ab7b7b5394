"""Captioners by name, with their models, and several as one."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from lora_scripts.core.problems import Problem, ProblemsError
from lora_scripts.labeling import choose
from lora_scripts.labeling._captioner import Asked, Tag, Words
from lora_scripts.labeling.choose import Choice, Unknown, choices, load, names, together


def test_every_captioner_has_what_the_command_needs():
    assert {"template", "http"} <= set(names())
    for name in names():
        file = choose.module(name)
        assert file.TITLE.startswith("label.captioner.")
        assert file.DEFAULT_MODEL is None or isinstance(file.DEFAULT_MODEL, str)
        assert callable(file.load)


def test_models_in_order_or_by_name():
    assert choices("template") == [Choice("template")]
    both = choices("Template + http", ["a/b", "c"])
    assert both == [Choice("template", "a/b"), Choice("http", "c")]
    assert choices("template+http", ["http=c=d"]) == [Choice("template"), Choice("http", "c=d")]


@pytest.mark.parametrize(
    ("written", "models", "near"),
    [
        ("templat", [], "template"),
        ("template", ["a", "b"], None),
        ("template", ["http=x"], None),
        ("", [], None),
    ],
)
def test_what_does_not_exist_is_named(written, models, near):
    with pytest.raises(Unknown) as caught:
        choices(written, models)
    assert caught.value.near == near


def test_sentences_come_first_then_each_tag_once():
    problem = Problem("LS3115", {"url": "", "reason": ""})
    said = together(
        [
            Words("a cat", (Tag("Cat", 0.5),)),
            Words("", (Tag("roof", 0.9), Tag("cat", 0.8)), problem),
            Words(" it sits "),
        ]
    )
    assert said == Words("a cat, it sits", (Tag("Cat", 0.5), Tag("roof", 0.9)), problem)


def test_if_one_cannot_be_had_the_others_are_closed(monkeypatch):
    closed = []
    first = SimpleNamespace(batch_size=4, close=lambda: closed.append(1))
    missing = ProblemsError(Problem("LS3109", {"url": ""}))

    def load_of(name):
        def load(asked):
            if name == "http":
                raise missing
            assert asked.model == "own"
            return first

        return SimpleNamespace(load=load, DEFAULT_MODEL="own")

    monkeypatch.setattr(choose, "module", load_of)
    with pytest.raises(ProblemsError):
        load([Choice("template"), Choice("http")], Asked())
    assert closed == [1]
