"""Texts in one buffer come back as they were, each is found by its number, and they take little."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_scripts.data.columns import Known, Texts

ANY = st.lists(st.text(st.characters(), max_size=6), max_size=60)
"""Half surrogate pairs too: the system gives them for names of files that are no text."""


@given(ANY)
def test_texts_are_a_list_of_them(given_: list[str]) -> None:
    texts = Texts(given_)
    assert [*texts] == given_ == [texts[n] for n in range(len(texts))] == texts[:]
    assert texts[1:-1] == given_[1:-1]
    if given_:
        assert texts[-1] == given_[-1]
    with pytest.raises(IndexError):
        texts[len(given_)]


@given(ANY)
def test_known_texts_have_the_number_that_they_came_as(given_: list[str]) -> None:
    known, wanted = Known(), dict[str, int]()
    for text in given_:
        assert known.add(text) == wanted.setdefault(text, len(wanted))
    assert [*known] == [*wanted]
    assert {text: known.get(text) for text in wanted} == wanted
    assert [known[number] for number in range(len(known))] == [*wanted]
    assert ("no such text" in known) is False
    assert known.get("no such text") is None


def test_texts_of_one_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lora_scripts.data.columns.hash", lambda text: len(text), raising=False)
    known = Known(f"{number:04}" for number in range(300))
    assert [known.get(f"{number:04}") for number in range(300)] == [*range(300)]
    assert "0300" not in known


def test_they_take_little_more_than_their_letters() -> None:
    names = [f"{number:08}" for number in range(20_000)]
    tracemalloc.start()
    known = Known(names)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(known) == 20_000
    assert held < 20_000 * (8 + 32)
