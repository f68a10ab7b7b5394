"""A LoRA put on and taken off: without effect at first, without trace at last, the same every time."""

from __future__ import annotations

import pytest
import torch

from lora_scripts.adapters.attach import (
    attach,
    detach,
    disabled,
    scaled,
    set_training,
)
from lora_scripts.adapters.spec import AdapterSpec
from lora_scripts.families._base import Draw
from tests.families.loaded import load


def predict(model):
    generator = torch.Generator().manual_seed(2)
    item = {
        "latents": torch.randn((8, 8, 8), generator=generator),
        "text": torch.randn((77, 64), generator=generator),
    }
    batch = model.family.collate(model, [item], [Draw(1)])
    return model.family.predict(model, batch)


def excite(adapter, size=0.05):
    with torch.no_grad():
        for name, parameter in adapter.parameters.items():
            if ".lora_B." in name:
                parameter.normal_(0, size, generator=torch.Generator().manual_seed(len(name)))


def test_a_fresh_adapter_has_no_effect_and_a_removed_one_leaves_no_trace(model):
    before, mark = predict(model), model.component_hash("unet")
    names = [name for name, _ in model.modules["unet"].named_modules()]
    adapter = attach(model, AdapterSpec(4, 2.0), seed=1)
    assert torch.equal(predict(model), before)
    excite(adapter)
    assert not torch.equal(predict(model), before)
    with disabled(adapter):
        assert torch.equal(predict(model), before)
    model.hashes.clear()
    assert model.component_hash("unet") == mark
    detach(model, adapter)
    assert torch.equal(predict(model), before)
    assert [name for name, _ in model.modules["unet"].named_modules()] == names
    again = attach(model, AdapterSpec(4, 2.0), seed=1)
    assert again.parameters.keys() == adapter.parameters.keys()


def test_names_are_stable_and_complete(model):
    adapter = attach(model, AdapterSpec(4, 4.0), train_text_encoder=True)
    assert len(adapter.parameters) == 2 * sum(map(len, adapter.matched.values()))
    name = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0.lora_A.weight"
    assert name in adapter.parameters
    assert set(adapter.parameters) == {*adapter.of("unet"), *adapter.of("text_encoder")}
    assert adapter.count() == sum(p.numel() for p in adapter.parameters.values())


def test_start_values_depend_on_seed_and_name_alone(folder):
    from lora_scripts.families import _source

    source = _source.resolve(str(folder))
    family = _source.find("auto", source)

    def start(seed, **options):
        torch.manual_seed(99)
        before = torch.get_rng_state()
        found = attach(family.load(source), AdapterSpec(4, 4.0, **options), seed=seed)
        assert torch.equal(torch.get_rng_state(), before)
        return {name: p.detach().clone() for name, p in found.parameters.items()}

    full, again, other, part = start(1), start(1), start(2), start(1, targets="attention")
    first = next(name for name in full if ".lora_A." in name)
    assert all(torch.equal(full[name], again[name]) for name in full)
    assert not torch.equal(full[first], other[first])
    assert 0 < len(part) < len(full)
    assert all(torch.equal(part[name], full[name]) for name in part)
    twins = [
        full[f"unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_{x}.lora_A.weight"] for x in "qkv"
    ]
    assert not torch.equal(twins[0], twins[1])
    assert not torch.equal(twins[1], twins[2])
    for name, value in full.items():
        if ".lora_B." in name:
            assert not value.any()
        else:
            bound = value[0].numel() ** -0.5
            assert bound * 0.8 < value.abs().max() <= bound


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_are_float32_on_a_half_precision_base_and_alone_get_gradients(folder, dtype):
    model = load(folder, dtype=dtype)
    adapter = attach(model, AdapterSpec(4, 4.0))
    excite(adapter)
    assert {p.dtype for p in adapter.parameters.values()} == {torch.float32}
    with torch.autocast("cpu", dtype=dtype):
        predict(model).square().mean().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in adapter.parameters.values())
    trainable = {id(p) for m in model.modules.values() for p in m.parameters() if p.requires_grad}
    assert trainable == {id(p) for p in adapter.parameters.values()}


def test_the_scale_is_alpha_over_rank_and_strength_is_linear_in_the_layer(model):
    adapter = attach(model, AdapterSpec(4, 3.0))
    excite(adapter)
    name = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    layer = adapter.layers[name]
    x = torch.randn((2, 64), generator=torch.Generator().manual_seed(1))
    up, down = (adapter.parameters[f"{name}.lora_{half}.weight"] for half in "BA")
    effect = 0.75 * x @ down.T @ up.T
    with torch.no_grad():
        base = layer.base_layer(x)
        torch.testing.assert_close(layer(x) - base, effect)
        with scaled(adapter, 0.4):
            torch.testing.assert_close(layer(x) - base, 0.4 * effect)
        torch.testing.assert_close(layer(x) - base, effect)


def test_dropout_works_in_training_only(model):
    adapter = attach(model, AdapterSpec(4, 4.0, dropout=0.5))
    excite(adapter)
    with torch.no_grad():
        assert torch.equal(predict(model), predict(model))
        set_training(model, adapter, True)
        torch.manual_seed(0)
        first = predict(model)
        assert not torch.equal(first, predict(model))
        torch.manual_seed(0)
        assert torch.equal(first, predict(model))
        set_training(model, adapter, False)
        assert torch.equal(predict(model), predict(model))
