"""Captions: the trigger word comes in front where it is missing, and words are otherwise left alone."""

from __future__ import annotations

import pytest

from lora_scripts.data.captions import clean, has_marker, is_empty, with_trigger


@pytest.mark.parametrize(
    ("caption", "trigger", "learnt"),
    [
        ("a city", "neonstyle", "neonstyle, a city"),
        ("a city in NeonStyle", "neonstyle", "a city in NeonStyle"),
        ("neonstyle, a city", "neonstyle", "neonstyle, a city"),
        ("people in masks", "sks", "sks, people in masks"),
        ("photo of sks.", "sks", "photo of sks."),
        ("赛博朋克城市", "赛博", "赛博朋克城市"),
        ("城市", "赛博", "赛博, 城市"),
        ("", "sks", "sks"),
        (" , ", "sks", "sks"),
        ("a city", None, "a city"),
        ("a city", "  ", "a city"),
        ("a (b", "(b", "a (b"),
        ("a city", "in  the style of X", "in the style of X, a city"),
    ],
)
def test_the_trigger_word(caption: str, trigger: str | None, learnt: str) -> None:
    assert with_trigger(caption, trigger) == learnt
    assert with_trigger(learnt, trigger) == learnt, "twice is once"


def test_blanks_and_forms_are_made_uniform_and_words_kept() -> None:
    assert clean(" a\r\n city,\t (neon:1.2) <lora:x:1>  cafe\u0301 ") == "a city, (neon:1.2) <lora:x:1> café"


@pytest.mark.parametrize(("text", "found"), [("<lora:a:1>", True), ("<LoRA:a>", True), ("a < lora b", False)])
def test_markers(text: str, found: bool) -> None:
    assert has_marker(text) is found


@pytest.mark.parametrize(("text", "empty"), [("", True), (" ,;、。", True), ("a", False), ("猫", False)])
def test_empty(text: str, empty: bool) -> None:
    assert is_empty(text) is empty
