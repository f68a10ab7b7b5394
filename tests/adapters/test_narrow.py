"""A float32 run holds 16-bit weights in 16 bits, and nothing that is computed changes by a bit."""

from __future__ import annotations

import pytest
import torch

from lora_scripts.adapters import lean
from lora_scripts.adapters.attach import attach, detach, disabled, set_training
from lora_scripts.adapters.narrow import hold_narrow
from lora_scripts.adapters.spec import AdapterSpec
from lora_scripts.families._components import hash_of_module, shared_copy
from tests.adapters import language


def rounded(dtype, kind="qwen2"):
    """A float32 model whose every number ``dtype`` has too."""
    model = language.build(kind)
    with torch.no_grad():
        for parameter in model.predictor.parameters():
            parameter.copy_(parameter.to(dtype).float())
    return model


def weights(adapter):
    return {name: layer.get_base_layer().weight for name, layer in adapter.layers.items()}


def as_before(monkeypatch):
    monkeypatch.setattr("lora_scripts.adapters.attach.hold_narrow", lambda layers: 0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("options", [{}, {"dropout": 0.2}, {"init": "pissa"}], ids=str)
def test_training_gives_the_same_bits(dtype, options, monkeypatch):
    narrow, plain = rounded(dtype), rounded(dtype)
    ours = attach(narrow, AdapterSpec(4, 2.8, **options), seed=1, lean=True)
    as_before(monkeypatch)
    theirs = attach(plain, AdapterSpec(4, 2.8, **options), seed=1, lean=True)
    assert {weight.dtype for weight in weights(ours).values()} == {dtype}
    assert {weight.dtype for weight in weights(theirs).values()} == {torch.float32}
    losses = []
    for model, adapter in ((narrow, ours), (plain, theirs)):
        set_training(model, adapter, True)
        torch.manual_seed(3)
        losses.append(language.train(model, adapter, steps=3, rate=1e-2))
        set_training(model, adapter, False)
    assert losses[0] == losses[1]
    assert all(torch.equal(ours.parameters[name], theirs.parameters[name]) for name in ours.parameters)
    assert torch.equal(language.logits(narrow), language.logits(plain))


def test_the_bare_base_computes_the_same_and_is_the_same_afterwards():
    model = rounded(torch.bfloat16)
    before, mark = language.logits(model), hash_of_module(model.predictor)
    adapter = attach(model, AdapterSpec(4, 2.8), lean=True)
    language.excite(adapter)
    with disabled(adapter):
        assert torch.equal(language.logits(model), before)
    with torch.no_grad():
        assert torch.equal(shared_copy(model.predictor)(language.IDS).logits, before)
    detach(model, adapter)
    assert torch.equal(language.logits(model), before)
    assert hash_of_module(model.predictor) == mark


def test_one_number_that_16_bits_have_not_keeps_its_layer_whole():
    model = rounded(torch.bfloat16)
    odd = model.predictor.model.layers[1].mlp.down_proj.weight
    with torch.no_grad():
        odd[-1, -1] = 1 + 2**-20
    adapter = attach(model, AdapterSpec(4, 2.8), lean=True)
    wide = [name for name, weight in weights(adapter).items() if weight.dtype == torch.float32]
    assert wide == ["model.model.layers.1.mlp.down_proj"]


def test_layers_of_peft_and_weights_that_are_narrow_already_are_left_alone():
    pefts = attach(rounded(torch.bfloat16), AdapterSpec(4, 2.8))
    assert hold_narrow(pefts.layers.values()) == 0
    dora = attach(rounded(torch.bfloat16), AdapterSpec(4, 2.8, dora=True), lean=True)
    assert {weight.dtype for weight in weights(dora).values()} == {torch.float32}
    half = rounded(torch.bfloat16)
    half.predictor.bfloat16()
    assert hold_narrow(attach(half, AdapterSpec(4, 2.8), lean=True).layers.values()) == 0


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, lean.FEW, lean.FEW + 1])
def test_few_rows_go_through_the_matrix_piece_by_piece(rows, bias, monkeypatch):
    monkeypatch.setattr(lean, "CLOSE", 7 * 4 * 5)  # five outputs at a time
    pieces = []
    monkeypatch.setattr(torch, "mm", counted(torch.mm, pieces))
    monkeypatch.setattr(torch, "addmm", counted(torch.addmm, pieces))
    x, weight = torch.randn(rows, 7), torch.randn(12, 7).bfloat16()
    added = torch.randn(12) if bias else None
    out = torch.empty(rows, 12)
    lean._base_product(x, weight, added, out)
    torch.testing.assert_close(out, torch.nn.functional.linear(x, weight.float(), added))
    assert len(pieces) == (3 if rows <= lean.FEW else 1)


def counted(function, calls):
    def call(*args, **kwargs):
        calls.append(args)
        return function(*args, **kwargs)

    return call


def test_under_autocast_its_dtype_is_what_is_computed_in():
    model = rounded(torch.bfloat16)
    attach(model, AdapterSpec(4, 2.8), lean=True)
    layer = model.predictor.model.layers[0].mlp.up_proj
    x = torch.ones(1, layer.in_features)
    with torch.no_grad():
        assert layer(x).dtype == torch.float32
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16
