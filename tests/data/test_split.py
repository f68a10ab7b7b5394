"""Which pictures are held out: by content, a few, and never a twin of one that is trained on."""

from __future__ import annotations

import hashlib
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_scripts.data.split import held_out, held_out_count


def hashes(count: int) -> list[str]:
    return [hashlib.sha256(str(number).encode()).hexdigest() for number in range(count)]


@pytest.mark.parametrize(
    ("count", "share", "held"),
    [
        (0, "auto", 0),
        (1, "auto", 0), (19, "auto", 0), (20, "auto", 2), (60, "auto", 6), (80, "auto", 8),
        (5000, "auto", 8), (60, 0.0, 0), (60, 0.5, 30), (3, 0.1, 1), (2, 0.5, 1), (1, 0.5, 0),
        (1000, 0.1, 100),
    ],
)  # fmt: skip
def test_how_many(count: int, share: float, held: int) -> None:
    assert held_out_count(count, share) == held
    assert len(held_out(hashes(count), share)) == held


@given(st.integers(20, 120), st.randoms(use_true_random=False))
def test_the_order_of_rows_plays_no_part(count: int, rng: random.Random) -> None:
    names = hashes(count)
    mixed = names[:]
    rng.shuffle(mixed)
    assert {names[i] for i in held_out(names, "auto")} == {mixed[i] for i in held_out(mixed, "auto")}


def test_a_growing_set_keeps_most_of_its_held_out_pictures() -> None:
    before = {hashes(70)[i] for i in held_out(hashes(70), "auto")}
    after = {hashes(74)[i] for i in held_out(hashes(74), "auto")}
    assert len(before & after) >= 5


def test_twins_are_trained_on_together() -> None:
    names = hashes(40)
    first = sorted(names)[0]
    names.append(first)
    assert first not in {names[i] for i in held_out(names, "auto")}


@given(st.lists(st.integers(0, 30), max_size=60), st.sampled_from(["auto", 0.0, 0.1, 0.5, 1.0]))
def test_the_smallest_hashes_are_held_out(contents: list[int], share: float) -> None:
    names = [hashlib.sha256(str(content).encode()).hexdigest() for content in contents]
    times = Counter(names)
    order = sorted(range(len(names)), key=lambda n: (times[names[n]] > 1, names[n], n))
    wanted = sorted(order[: held_out_count(len(names), share)])
    assert held_out(names, share).tolist() == wanted
    raw = np.array([bytes.fromhex(name) for name in names], "S32")
    assert held_out(raw, share).tolist() == wanted
