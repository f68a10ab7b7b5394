"""What the text task does before the first step with rows that could see each other."""

from types import SimpleNamespace

import numpy as np
import pytest

from lora_scripts.core.catalogue import render, use_language
from lora_scripts.core.problems import Problem
from lora_scripts.training.text_task import PROBE_ROWS, PROBE_TOKENS, _isolation


@pytest.fixture(autouse=True)
def english():
    use_language("en")
    yield
    use_language(None)


class Family:
    """Rows of its models see each other or do not; it keeps those that it was asked about."""

    def __init__(self, isolated):
        self.isolated = isolated
        self.tried = []

    def packing_is_isolated(self, model, rows, longest):
        self.tried, self.longest = rows, longest
        return self.isolated


def opened(family, *, packs=True, wanted=True, count=5, shares=True):
    """The model after the rows were tried, and what was said."""
    model = SimpleNamespace(packing=packs, sharing=packs, description=SimpleNamespace(model_type="made_up"))
    row = SimpleNamespace(ids=np.arange(100), targets=np.ones(100, bool), rejected_ids=None)
    table = SimpleNamespace(row=lambda number: row, lengths=np.array([100] * count + [120]))
    report = SimpleNamespace(
        table=table, train=np.arange(count), validation=np.array([count]), packing=wanted, sharing=shares
    )
    notes = _isolation(family, model, report)
    return model, [note.text for note in notes]


def test_rows_that_see_themselves_only_stay_packed():
    family = Family(isolated=True)
    model, said = opened(family)
    assert model.packing
    assert "3" in said[0]
    assert [len(row) for row in family.tried] == [PROBE_TOKENS] * PROBE_ROWS
    assert family.longest == 120  # of those that are held out, too


@pytest.mark.parametrize("packs", [True, False])
def test_rows_that_see_each_other_are_padded_and_it_is_said(packs):
    """Whether that was found when the model was loaded, or on the user's rows alone."""
    model, said = opened(Family(isolated=not packs), packs=packs)
    assert not model.packing
    assert said == [render(Problem("LS5008", {"family": "made_up"}, severity="warning"))]


def test_where_there_are_few_rows_they_are_tried_several_times():
    family = Family(isolated=True)
    _, said = opened(family, count=1)
    assert len(family.tried) == PROBE_ROWS
    assert "1" in said[0]


def test_nothing_is_tried_or_said_where_rows_are_padded_anyway():
    family = Family(isolated=False)
    assert opened(family, packs=False, wanted=False)[1] == []
    assert not family.tried


@pytest.mark.parametrize("shares", [True, False])
def test_tokens_that_rows_share_are_shared_where_the_plan_says_so(shares):
    model, said = opened(Family(isolated=True), shares=shares)
    assert (model.packing, model.sharing, len(said)) == (True, shares, 1)


def test_rows_that_share_tokens_and_see_each_other_are_tried_without():
    class Leaking(Family):
        def packing_is_isolated(self, model, rows, longest):
            return not model.sharing

    model, said = opened(Leaking(isolated=True))
    assert model.packing
    assert not model.sharing
    assert "none sees another" in said[0]
