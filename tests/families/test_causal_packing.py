"""Rows laid end to end see themselves only: against Transformers' own eager models, row by row."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_scripts.families import (
    _attention_blocks,
    _flash_attention,
    _packed_attention,
    _plain_attention,
)
from lora_scripts.families._causal import packing_is_isolated
from lora_scripts.families._source import find, resolve
from tests.texts import small

DENSE = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "glm", "glm4", "phi3")
OTHERS = ("qwen3_moe", "gpt_oss", "cohere", "granite")
LENGTHS = (17, 40, 1, 23)
"""Longer than the tiny models' windows of 8, one of a single token."""


def rows(seed: int = 0) -> list[torch.Tensor]:
    drawn = torch.Generator().manual_seed(seed)
    return [torch.randint(3, 500, (size,), generator=drawn) for size in LENGTHS]


def items(some: list[torch.Tensor]) -> list[dict[str, Any]]:
    return [{"ids": row, "targets": torch.ones(len(row), dtype=torch.bool)} for row in some]


def load(folder: Path, **asked: Any) -> Any:
    source = resolve(str(folder))
    return find("auto", source).load(source, **asked)


def own_eager(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()


@pytest.mark.parametrize("kind", DENSE + OTHERS)
def test_a_pack_gives_what_the_library_gives_row_by_row(tmp_path, kind):
    model = load(small.write_model(tmp_path, kind))
    own = own_eager(tmp_path)
    assert model.packing
    batch = model.family.collate(model, items(rows()))
    places = batch["boundaries"].tolist()
    with torch.no_grad(), _packed_attention.packed(places):
        states = model.head.states(batch["input_ids"], batch["position_ids"])[0]
        logits = model.head.logits(states)
        for row, (start, stop) in zip(rows(), pairwise(places), strict=True):
            expected = own(row[None], use_cache=False).logits[0]
            assert (logits[start:stop] - expected).abs().max() <= 1e-5


PLACED: dict[str, dict[str, Any]] = {
    "gpt_bigcode": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": max(LENGTHS)},
    "phi3": {
        "original_max_position_embeddings": max(LENGTHS),
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "short_factor": [1.0] * 8,
            "long_factor": [9.0] * 8,
        },
    },
}
"""Rotary positions tell distances alone. These tell where a token stands: by a table with an entry for each
place of the longest row, and by factors that change where a sequence is longer than that."""


@pytest.mark.parametrize("kind", PLACED)
def test_positions_begin_anew_with_each_row(tmp_path, kind):
    model = load(small.write_model(tmp_path, kind, **PLACED[kind]))
    own = own_eager(tmp_path)
    assert model.packing
    got = model.family.predict(model, model.family.collate(model, items(rows())))
    expected = [
        own(row[None], use_cache=False).logits[0].log_softmax(-1)[:-1].gather(1, row[1:, None]).squeeze(1)
        for row in rows()
    ]
    torch.testing.assert_close(got, torch.cat(expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_padded_rows_give_the_same(tmp_path, kind):
    model = load(small.write_model(tmp_path, kind))
    packed = model.family.predict(model, model.family.collate(model, items(rows())))
    model.packing = False
    batch = model.family.collate(model, items(rows()))
    assert "boundaries" not in batch
    assert batch["input_ids"].shape == (4, 40)
    torch.testing.assert_close(model.family.predict(model, batch), packed, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_changing_a_row_moves_no_other(tmp_path, dtype):
    model = load(small.write_model(tmp_path), dtype=dtype)
    before, changed = rows(), rows()
    changed[1] = (changed[1] + 7) % 500
    one, other = (model.family.collate(model, items(some)) for some in (before, changed))
    with torch.no_grad():
        first, second = (model.family.predict(model, batch) for batch in (one, other))
    moved = (first != second).nonzero().squeeze(1)
    assert set(one["rows"][moved].tolist()) == {1}


def ignore_boundaries(monkeypatch) -> None:
    class Whole(_packed_attention.Pack):
        @property
        def runs(self):
            return [_packed_attention.Run(0, self.bounds[-1], ((0, self.bounds[-1]),))]

    monkeypatch.setattr(_packed_attention, "Pack", Whole)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ignored_boundaries_are_found(tmp_path, monkeypatch, dtype):
    folder = small.write_model(tmp_path)
    model = load(folder, dtype=dtype)
    assert packing_is_isolated(model, rows()[:3])
    ignore_boundaries(monkeypatch)
    assert not packing_is_isolated(model, rows()[:3])
    assert not load(folder, dtype=dtype).packing


def test_positions_that_do_not_restart_are_found(tmp_path, monkeypatch):
    from lora_scripts.families import _text_batch

    def ongoing(*args, **kwargs):
        laid = lay(*args, **kwargs)
        return replace(laid, positions=3 * torch.arange(laid.tokens.shape[1])[None])

    lay = _text_batch.lay
    model = load(small.write_model(tmp_path))
    monkeypatch.setattr(_text_batch, "lay", ongoing)
    model_rows = [row.repeat(4) for row in rows()[:3]]
    assert not packing_is_isolated(model, model_rows)


LINEAR = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "shared_expert_intermediate_size": 32,
}
UNPACKABLE: dict[str, dict[str, Any]] = {
    "qwen3_next": {**small.EXPERTS, **LINEAR, "num_hidden_layers": 4},
    "qwen3_5_text": {**LINEAR, "num_hidden_layers": 4},
    "mamba2": {"num_heads": 8, "head_dim": 16, "state_size": 16, "n_groups": 1, "expand": 2},
    "gptj": {"n_embd": 64, "n_layer": 2, "n_head": 4, "rotary_dim": 8},
}
"""Two hybrids and a recurrent one, whose state goes on into the next row, and one with an attention of its
own."""


@pytest.mark.parametrize("kind", UNPACKABLE)
def test_models_whose_rows_would_leak_are_padded(tmp_path, kind):
    model = load(small.write_model(tmp_path, kind, **UNPACKABLE[kind]))
    assert not model.packing
    own = own_eager(tmp_path)
    expected = [
        own(row[None], use_cache=False).logits[0].log_softmax(-1)[:-1].gather(1, row[1:, None]).squeeze(1)
        for row in rows()
    ]
    got = model.family.predict(model, model.family.collate(model, items(rows())))
    torch.testing.assert_close(got, torch.cat(expected), rtol=0, atol=1e-4)


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize(
    ("way", "dtype", "keep", "allowed"),
    [
        (_plain_attention.plain, torch.bfloat16, 0, 0.01),
        (_plain_attention.plain, torch.bfloat16, 512, 0.01),
        (_flash_attention.flash, torch.float32, 0, 1e-6),
    ],
)
def test_attention_in_blocks_equals_sdpa(monkeypatch, window, way, dtype, keep, allowed):
    monkeypatch.setattr(_attention_blocks, "BLOCK", 16)
    monkeypatch.setattr(_plain_attention, "KEEP_UP_TO", keep)
    pack = _packed_attention.Pack((0, 3, 40, 41))
    drawn = torch.Generator().manual_seed(0)
    shapes = ((1, 41, 4, 16), (1, 41, 2, 16), (1, 41, 2, 16))
    parts = [torch.randn(shape, generator=drawn).bfloat16().float() for shape in shapes]
    ours = [part.to(dtype).transpose(1, 2).requires_grad_() for part in parts]
    full = [part.clone().transpose(1, 2).requires_grad_() for part in parts]
    # A layer before this one may have had another window over the same rows.
    way()(*ours, pack, 0.3, 5 if window is None else None)
    got = way()(*ours, pack, 0.3, window)
    expected = torch.cat(
        [
            torch.nn.functional.scaled_dot_product_attention(
                *(part[:, :, a:b] for part in full),
                attn_mask=_packed_attention.band(b - a, b - a, window, torch.device("cpu")),
                scale=0.3,
                enable_gqa=True,
            )
            for a, b in pairwise(pack.bounds)
        ],
        dim=2,
    ).transpose(1, 2)
    weights = torch.randn(expected.shape, generator=drawn)
    (got.float() * weights).sum().backward()
    (expected * weights).sum().backward()
    assert (got.float() - expected).norm() <= allowed * expected.norm()
    for one, other in zip(ours, full, strict=True):
        assert (one.grad.float() - other.grad).norm() <= allowed * other.grad.norm()


@pytest.mark.parametrize("values", [torch.float32, torch.bfloat16])
def test_what_autocast_computes_in_half_precision_is_left_to_it(values):
    """Rotary positions in float32 beside projections that autocast has cast already, as in a base that is
    kept in float32."""
    drawn = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn((1, heads, 12, 16), generator=drawn) for heads in (4, 2, 2))
    module = torch.nn.Module()
    with _packed_attention.packed((0, 5, 12)):
        expected, _ = _packed_attention.attention(module, query, key, value, None)
        with torch.autocast("cpu", torch.bfloat16):
            got, _ = _packed_attention.attention(module, query, key, value.to(values), None)
    assert got.dtype == torch.bfloat16
    assert (got.float() - expected).norm() <= 0.01 * expected.norm()


def test_heads_whose_numbers_lie_apart_are_read_right():
    """The fused kernel would read what lies beside them."""
    pack = _packed_attention.Pack((0, 5, 12))
    drawn = torch.Generator().manual_seed(0)
    parts = [torch.randn((1, heads, 12, 16), generator=drawn) for heads in (4, 2, 2)]
    weights = torch.randn((1, 12, 4, 16), generator=drawn)
    found = []
    for apart in (False, True):
        turned = [part.mT.contiguous().mT if apart else part.clone() for part in (*parts, weights)]
        *given, upstream = turned
        out = _flash_attention.flash()(*(part.requires_grad_() for part in given), pack, 0.3, None)
        out.backward(upstream)
        found.append([out.detach(), *(part.grad for part in given)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_recomputation_in_the_backward_pass_sees_its_own_rows(tmp_path, dtype):
    model = load(small.write_model(tmp_path), dtype=dtype)
    layers = model.predictor.model.layers
    weight = layers[0].mlp.up_proj.weight
    weight.requires_grad_()
    model.predictor.train()
    gradients = []
    for on in (False, True):
        model.family.set_gradient_checkpointing(model, on)
        first = model.family.predict(model, model.family.collate(model, items(rows())))
        # Another batch comes before the backward pass, with rows that lie elsewhere.
        model.family.predict(model, model.family.collate(model, items(rows(1)[::-1])))
        weight.grad = None
        first.sum().backward()
        gradients.append(weight.grad.float())
    assert layers[0].gradient_checkpointing
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-6)
    assert gradients[0].abs().max() > 0.1


def test_kept_activations_can_wait_elsewhere(tmp_path, monkeypatch):
    model = load(small.write_model(tmp_path))
    weight = model.predictor.model.layers[0].mlp.up_proj.weight
    weight.requires_grad_()
    model.predictor.train()
    used = []
    own = torch.autograd.graph.save_on_cpu
    monkeypatch.setattr(torch.autograd.graph, "save_on_cpu", lambda **how: used.append(how) or own(**how))
    gradients = []
    for offload in (False, True):
        model.family.set_gradient_checkpointing(model, True, offload=offload)
        weight.grad = None
        model.family.predict(model, model.family.collate(model, items(rows()))).sum().backward()
        gradients.append(weight.grad)
    assert used == [{"pin_memory": False}]
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


def test_rows_longer_than_a_chunk_are_padded(tmp_path):
    """Known before the first step, not when the first of them comes."""
    experts = {"num_local_experts": 4, "num_experts_per_tok": 1, "intermediate_size_mlp": 64}
    model = load(small.write_model(tmp_path, "llama4_text", attention_chunk_size=32, **experts))
    assert model.packing
    short = [row[:12] for row in rows() if len(row) > 12]
    assert model.family.packing_is_isolated(model, short, 32)
    assert not model.family.packing_is_isolated(model, short, 33)
    with pytest.raises(_packed_attention.NotPackableError):
        model.family.predict(model, model.family.collate(model, items(rows())))


@pytest.mark.parametrize(
    "asked",
    [
        {"is_causal": False},
        {"attention_mask": torch.ones(1, 1, 9, 9, dtype=torch.bool)},
        {"position_bias": torch.zeros(1, 4, 9, 9)},
        {"query": torch.zeros(1, 4, 8, 16)},
    ],
)
def test_what_a_pack_cannot_have_is_refused(asked):
    part = torch.zeros(1, 4, 9, 16)
    given = {"query": part, "key": part, "value": part, "attention_mask": None}
    with _packed_attention.packed((0, 4, 9)):
        _packed_attention.attention(torch.nn.Module(), **given)
        with pytest.raises(_packed_attention.NotPackableError):
            _packed_attention.attention(torch.nn.Module(), **(given | asked))
