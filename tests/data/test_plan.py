"""The plan's promises, on any set of shapes: every example once, whole windows, one shape per micro-batch."""

from __future__ import annotations

import tracemalloc
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_scripts.data.plan import MicroBatch, Plan, Window, shuffled, split

GROUPS = st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=80)
SMALL = st.integers(1, 6)


def size(window: Window) -> int:
    return sum(len(batch) for batch in window)


def windows(plan: Plan, epoch: int = 0) -> list[Window]:
    first = epoch * plan.windows_per_epoch
    return [plan.window(first + n)[1] for n in range(plan.windows_per_epoch)]


@given(GROUPS, SMALL, SMALL, st.integers(0, 2**63 - 1), st.integers(0, 3))
def test_every_epoch_has_every_example_once_in_whole_windows_of_one_shape_each(
    groups: list[str], batch: int, accumulation: int, seed: int, epoch: int
) -> None:
    plan = Plan(groups, batch, accumulation, seed)
    found = windows(plan, epoch)
    assert sorted(i for window in found for mini in window for i in mini.indices) == list(range(len(groups)))
    assert [size(window) for window in found[:-1]] == [batch * accumulation] * (len(found) - 1)
    assert 0 < size(found[-1]) <= batch * accumulation
    for window in found:
        for mini in window:
            assert 0 < len(mini) <= batch
            assert len({groups[i] for i in mini.indices}) == 1


@given(GROUPS, SMALL, SMALL, st.integers(0, 99))
def test_a_window_depends_on_nothing_that_was_asked_before(
    groups: list[str], batch: int, accumulation: int, number: int
) -> None:
    plan = Plan(groups, batch, accumulation, seed=7)
    before = plan.window(number)
    plan.window(0)
    plan.window(number + 3 * plan.windows_per_epoch)
    assert plan.window(number) == before
    assert Plan(groups, batch, accumulation, seed=7).window(number) == before
    assert before[0] == number // plan.windows_per_epoch


@given(GROUPS, SMALL, SMALL)
def test_the_same_product_keeps_the_windows_number_and_weights(
    groups: list[str], batch: int, accumulation: int
) -> None:
    one, other = Plan(groups, batch, accumulation), Plan(groups, batch * accumulation, 1)
    assert [size(window) for window in windows(one)] == [size(window) for window in windows(other)]


@given(GROUPS, SMALL, SMALL, SMALL)
def test_splitting_keeps_each_window_s_examples_in_order(
    groups: list[str], batch: int, accumulation: int, smaller: int
) -> None:
    for window in windows(Plan(groups, batch, accumulation)):
        cut = split(window, smaller)
        assert [i for mini in cut for i in mini.indices] == [i for mini in window for i in mini.indices]
        assert all(len(mini) <= smaller for mini in cut)


@given(GROUPS, SMALL, SMALL)
def test_only_left_overs_share_and_a_window_splits_one_of_them_at_most(
    groups: list[str], batch: int, accumulation: int
) -> None:
    plan = Plan(groups, batch, accumulation)
    counts = Counter(groups).values()
    full = sum(count // batch for count in counts)
    rest = sum(count % batch > 0 for count in counts)
    batches = [len(mini) for window in windows(plan) for mini in window]
    left = sum(count % batch for count in counts) + full % accumulation * batch
    assert len(batches) <= full + rest + -(-left // plan.window_size)
    assert batches.count(batch) >= full // accumulation * accumulation


@settings(max_examples=300)
@given(st.lists(st.integers(1, 54), min_size=6, max_size=6, unique=True), st.integers(0, 9))
def test_60_pictures_of_7_shapes_at_batch_4_fill_micro_batches_to_2_7(cuts: list[int], seed: int) -> None:
    edges = [0, *sorted(cuts), 60]
    groups = [shape for shape in range(7) for _ in range(edges[shape + 1] - edges[shape])]
    assert len(groups) == 60
    assert Plan(groups, 4, 1, seed).mean_micro_batch() >= 2.7


def test_the_worst_60_pictures_of_7_shapes() -> None:
    groups = [shape for shape, count in enumerate((7, 7, 7, 7, 7, 11, 14)) for _ in range(count)]
    for epoch in range(20):
        assert Plan(groups, 4, 1).mean_micro_batch(epoch) >= 2.7


def test_epochs_and_seeds_differ() -> None:
    plan = Plan(["a"] * 40, 4, 1, seed=1)
    assert plan.epoch(0) != plan.epoch(1)
    assert plan.epoch(0) != Plan(["a"] * 40, 4, 1, seed=2).epoch(0)


def test_every_picture_meets_many_others_over_the_epochs() -> None:
    plan = Plan(["a"] * 20 + ["b"] * 20, 4, 2, seed=3)
    met = {i for e in range(30) for w in plan.epoch(e) for m in w if 0 in m.indices for i in m.indices}
    assert met == set(range(20))
    mixed = [len({i < 20 for mini in window for i in mini.indices}) for window in plan.epoch(0)]
    assert 2 in mixed, "accumulated micro-batches of one window come from different shapes"


def test_the_short_window_is_the_last() -> None:
    plan = Plan(["a"] * 9 + ["b"] * 2, 4, 1)
    assert [size(window) for window in plan.epoch(0)] == [4, 4, 3]


def test_left_overs_that_fit_together_are_not_split() -> None:
    for seed in range(10):
        (one, other) = Plan("aaabccdd", 4, 1, seed).epoch(0)
        assert sorted((sorted(map(len, one)), sorted(map(len, other)))) == [[1, 3], [2, 2]]


def test_the_order_is_pinned_for_ever() -> None:
    assert shuffled(6, 42).tolist() == [4, 1, 3, 0, 2, 5]
    assert Plan(["a", "b"] * 4, 2, 1, seed=42).window(5) == (1, (MicroBatch((5, 7)),))


def test_one_example_and_none() -> None:
    assert Plan(["a"], 4, 4).window(9) == (9, (MicroBatch((0,)),))
    empty = Plan([], 4)
    assert empty.windows_per_epoch == 0
    with pytest.raises(IndexError):
        empty.window(0)
    with pytest.raises(ValueError, match="from one"):
        Plan(["a"], 0)


def test_a_hundred_thousand_examples_are_planned_and_epochs_cost_no_memory() -> None:
    groups = [n * n % 37 for n in range(100_000)]
    plan = Plan(groups, 4, 2)
    plan.window(0)
    tracemalloc.start()
    plan.window(plan.windows_per_epoch)
    first = tracemalloc.get_traced_memory()[0]
    for epoch in range(2, 5):
        plan.window(epoch * plan.windows_per_epoch)
    grown = tracemalloc.get_traced_memory()[0] - first
    tracemalloc.stop()
    assert grown < 1_000_000


def test_many_shapes_of_few_pictures_are_planned_in_full_batches() -> None:
    plan = Plan([n // 3 for n in range(30_000)], 4)
    assert plan.mean_micro_batch() >= 2


def test_a_plan_cut_in_another_way_and_back_is_the_same():
    groups = [(8, 8), (16, 8), (8, 8), (8, 16)] * 7
    plan = Plan(groups, 4, 2, seed=3)
    assert plan.cut(4, 2) is plan
    other = plan.cut(2, 4)
    assert other.epoch(1) == Plan(groups, 2, 4, seed=3).epoch(1) != plan.epoch(1)
    assert other.cut(4, 2).epoch(1) == plan.epoch(1)
