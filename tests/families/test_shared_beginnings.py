"""What rows of a batch have in common at their beginning is computed once, and nothing else changes: against
the same rows in packs that share nothing, and these are held against the library in test_causal_packing."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lora_scripts.families import _attention_blocks, _packed_attention, _plain_attention
from lora_scripts.families import _shared_beginnings as beginnings
from lora_scripts.families._causal import packing_is_isolated
from lora_scripts.families._source import find, resolve
from lora_scripts.families._text_batch import collate, sequences
from tests.texts import small

KINDS = ("llama", "gemma2", "gemma3_text", "glm4", "phi3", "qwen3_moe", "gpt_oss", "gpt_bigcode")
"""With windows, caps, sinks, experts and learnt positions among them."""
SYSTEM, QUESTION = 20, 18
LONGEST = 61


def drawn(seed: int, count: int) -> list[int]:
    return torch.randint(3, 500, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def rows() -> list[list[int]]:
    """One system prompt before all but the last; two rows share a question too; one row is the beginning of
    another, one comes twice."""
    system, question = drawn(0, SYSTEM), drawn(1, QUESTION)
    asked = [*system, *question]
    return [
        [*asked, *drawn(2, 9)],
        [*system, *drawn(3, 31)],
        [*asked, *drawn(4, 23)],
        asked,
        [*system, *drawn(3, 31)],
        drawn(5, 12),
    ]


def items(some: list[list[int]]) -> list[dict[str, Any]]:
    return [{"ids": torch.tensor(row), "targets": torch.ones(len(row), dtype=torch.bool)} for row in some]


def load(folder: Path, kind: str = "llama", **asked: Any) -> Any:
    learnt = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": LONGEST}
    small.write_model(folder, kind, **(learnt if kind == "gpt_bigcode" else {}))
    source = resolve(str(folder))
    return find("auto", source).load(source, **asked)


row = st.lists(st.integers(0, 1), min_size=1, max_size=60)
alike = st.tuples(row, st.lists(row, min_size=1, max_size=5)).map(lambda p: [[*p[0], *end] for end in p[1]])


@given(st.lists(alike, min_size=1, max_size=3).map(lambda groups: list(chain(*groups))))
def test_every_row_is_its_chain_and_no_tree_is_larger_than_the_rows(some):
    tree = beginnings.shared(some)
    for tokens, numbers in zip(some, tree.chains, strict=True):
        pieces = [tree.pieces[number] for number in numbers]
        assert [t for p in pieces for t in some[p.row][p.start : p.stop]] == tokens
        assert [p.start for p in pieces] == [0, *(p.stop for p in pieces[:-1])]
        assert [tree.parents[number] for number in numbers] == [-1, *numbers[:-1]]
    assert all(parent < number for number, parent in enumerate(tree.parents))
    splits = len(tree.pieces) - len(some)
    assert sum(map(len, some)) - tree.tokens >= beginnings.WORTH * splits


def test_a_tree_has_what_rows_share_once():
    tree = beginnings.shared(rows())
    own = [SYSTEM, QUESTION, 9, 23, 31, 12]
    assert sorted(piece.stop - piece.start for piece in tree.pieces) == sorted(own)
    assert tree.chains[1] == tree.chains[4]
    assert tree.chains[3] == tree.chains[0][:2] == tree.chains[2][:2]


def test_what_saves_little_is_not_taken_apart():
    short, long = drawn(0, beginnings.WORTH - 1), drawn(0, beginnings.WORTH)
    for begin, pieces in ((short, 2), (long, 3)):
        assert len(beginnings.shared([[*begin, 1], [*begin, 2]]).pieces) == pieces
    three = [[*short, number] for number in range(3)]
    assert len(beginnings.shared(three).pieces) == 4, "the more rows, the more it saves"


def scores_and_gradients(model: Any, some: list[list[int]], *, sharing: bool) -> list[torch.Tensor]:
    weights = [layer.mlp for layer in model.predictor.base_model.modules() if hasattr(layer, "mlp")]
    learnt = next(p for p in weights[0].parameters() if p.ndim > 1).requires_grad_()
    learnt.grad = None
    model.sharing = sharing
    batch = model.family.collate(model, items(some))
    assert batch["input_ids"].numel() < sum(map(len, some)) or not sharing
    scores = model.family.predict(model, batch)
    (scores * torch.linspace(0.5, 1.5, len(scores))).sum().backward()
    return [scores.detach(), learnt.grad.float()]


@pytest.mark.parametrize("kind", KINDS)
def test_scores_and_gradients_are_those_of_rows_that_share_nothing(tmp_path, kind):
    model = load(tmp_path, kind)
    assert model.packing
    assert model.sharing
    apart, shared = (scores_and_gradients(model, rows(), sharing=sharing) for sharing in (False, True))
    torch.testing.assert_close(shared[0], apart[0], rtol=0, atol=2e-5)
    assert (shared[1] - apart[1]).norm() <= 1e-5 * apart[1].norm()


@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
@pytest.mark.parametrize("keep", [0, 512])
def test_so_they_are_in_half_precision(tmp_path, monkeypatch, kind, keep):
    """Whose own attention, in blocks, is another program than that of float32."""
    monkeypatch.setattr(_attention_blocks, "BLOCK", 8)
    monkeypatch.setattr(_plain_attention, "KEEP_UP_TO", keep)
    model = load(tmp_path, kind, dtype=torch.bfloat16)
    model.family.set_gradient_checkpointing(model, keep == 0)
    model.predictor.train()
    apart, shared = (scores_and_gradients(model, rows(), sharing=sharing) for sharing in (False, True))
    for one, other in zip(shared, apart, strict=True):
        assert (one - other).norm() <= 0.02 * other.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_that_share_a_beginning_do_not_see_each_others_ends(tmp_path, dtype):
    model = load(tmp_path, dtype=dtype)
    before, changed = rows(), rows()
    changed[2][SYSTEM + QUESTION :] = drawn(9, 23)
    one, other = (model.family.collate(model, items(some)) for some in (before, changed))
    assert one["parents"].tolist() == other["parents"].tolist()
    with torch.no_grad():
        first, second = (model.family.predict(model, batch) for batch in (one, other))
    moved = (first != second).nonzero().squeeze(1)
    assert set(one["rows"][moved].tolist()) == {2}


def test_a_run_that_saw_its_neighbour_would_be_found(tmp_path, monkeypatch):
    model = load(tmp_path)
    some = [torch.tensor(row) for row in rows()[:3]]
    assert packing_is_isolated(model, some, sharing=True)

    class Seeing(_packed_attention.Pack):
        @property
        def runs(self):
            return [_packed_attention.Run(r.start, r.stop, ((0, r.stop),)) for r in super().runs]

    monkeypatch.setattr(_packed_attention, "Pack", Seeing)
    assert not packing_is_isolated(model, some, sharing=True)


def test_the_question_of_a_pair_is_laid_down_once():
    question, good, bad = drawn(1, 30), drawn(2, 7), drawn(3, 9)
    pair = {}
    for name, answer in (("", good), ("rejected_", bad)):
        pair[f"{name}ids"] = torch.tensor([*question, *answer])
        pair[f"{name}targets"] = torch.tensor([False] * len(question) + [True] * len(answer))
    batch = collate(sequences([pair]), packing=True, sharing=True)
    assert batch["input_ids"][0].tolist() == [*question, *good, *bad]
    assert batch["position_ids"][0].tolist() == [*range(37), *range(30, 39)]
    # Both first tokens are predicted from the question's last one.
    assert batch["at"].tolist() == [29, *range(30, 36), 29, *range(37, 45)]
    assert batch["labels"].tolist() == [*good, *bad]
    assert batch["rows"].tolist() == [0] * 7 + [1] * 9


@pytest.mark.gpu
@pytest.mark.parametrize("shares", [False, True])
def test_a_card_has_its_own_attention_for_them(shares):
    from lora_scripts.families._varlen_attention import works

    assert works(torch.device("cuda", 0), torch.bfloat16, 64, shares)
