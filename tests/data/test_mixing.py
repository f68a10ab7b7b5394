"""How often rows come in an epoch, and which of them are held out."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_scripts.data.mixing import repeats


def keys(count: int, salt: str = "") -> np.ndarray:
    return np.array([hashlib.md5(f"{salt}{n}".encode()).hexdigest() for n in range(count)], dtype="S32")


def test_a_weight_is_how_often_a_row_comes():
    weights = [1.0, 2.0, 0.0, 1.0, 3.0]
    assert repeats(weights, keys(5)).tolist() == [0, 1, 1, 3, 4, 4, 4]
    assert repeats([], keys(0)).tolist() == []


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0, 1.5, 2.75]), max_size=60))
def test_the_number_of_rows_is_what_the_weights_ask_for(weights):
    rows = repeats(weights, keys(len(weights)))
    for weight in set(weights):
        mine = [n for n, other in enumerate(weights) if other == weight]
        times = [int(np.count_nonzero(rows == n)) for n in mine]
        assert set(times) <= {int(weight), int(weight) + 1}
        assert abs(sum(times) - weight * len(mine)) <= 0.5


def test_the_half_is_chosen_by_content_and_not_by_place():
    content = keys(100)
    chosen = {content[n] for n in repeats([0.5] * 100, content)}
    assert len(chosen) == 50
    turned = content[::-1]
    assert {turned[n] for n in repeats([0.5] * 100, turned)} == chosen
    assert [str(k, "ascii") for k in content[repeats([0.5] * 100, [str(k, "ascii") for k in content])]] == [
        str(k, "ascii") for k in content[repeats([0.5] * 100, content)]
    ]
    more = np.concatenate([content, keys(10, "new")])
    kept = {more[n] for n in repeats([0.5] * 110, more)}
    assert len(chosen & kept) >= 45


@pytest.mark.parametrize("weight", [-0.5, float("nan"), float("inf")])
def test_other_weights_are_refused(weight):
    with pytest.raises(ValueError, match="weights"):
        repeats([1.0, weight], keys(2))
