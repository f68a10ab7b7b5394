"""PiSSA: starts from the largest singular values, trains as if the rest were the base, is saved as a LoRA."""

from __future__ import annotations

import copy

import pytest
import torch

from lora_scripts.adapters import start
from lora_scripts.adapters.attach import attach, set_training
from lora_scripts.adapters.plain import to_plain
from lora_scripts.adapters.spec import AdapterSpec
from tests.adapters import language
from tests.adapters.test_experts import save

SPEC = AdapterSpec(4, 2.8, init="pissa")
NAME = "model.model.layers.0.mlp.up_proj"


def decaying(rows, columns, seed=0):
    """A matrix with well-separated singular values."""
    generator = torch.Generator().manual_seed(seed)
    left, right = (torch.linalg.qr(torch.randn((n, 20), generator=generator))[0] for n in (rows, columns))
    return (left * 0.8 ** torch.arange(20.0)) @ right.T


@pytest.mark.parametrize("shape", [(40, 90), (90, 40), (60, 60), (1100, 1200), (1200, 1100)])
def test_the_principal_part_is_that_of_the_singular_value_decomposition(shape):
    weight = decaying(*shape)
    left, values, right = start.principal(weight, 5, "name")
    u, s, v = torch.linalg.svd(weight.double(), full_matrices=False)
    torch.testing.assert_close(values.double(), s[:5], atol=1e-6, rtol=1e-5)
    wanted = ((u[:, :5] * s[:5]) @ v[:5]).float()
    torch.testing.assert_close((left * values) @ right, wanted, atol=1e-5, rtol=0)
    again = start.principal(weight.clone(), 5, "name")
    assert all(torch.equal(a, b) for a, b in zip((left, values, right), again, strict=True))
    largest = right.gather(1, right.abs().argmax(1, keepdim=True))
    assert (largest > 0).all()


def test_a_rank_beyond_the_weights_is_filled_with_zeros():
    first, second = start.pissa(torch.ones(1, 6), 3, 0.7, "name")
    assert (first.shape, second.shape) == ((3, 6), (1, 3))
    torch.testing.assert_close(0.7 * second @ first, torch.ones(1, 6))


@pytest.mark.parametrize("rslora", [False, True])
def test_scale_times_the_product_is_the_principal_part(rslora):
    model = language.build()
    adapter = attach(model, AdapterSpec(4, 2.8, init="pissa", rslora=rslora))
    weight = model.predictor.model.layers[0].mlp.up_proj.base_layer.weight
    u, s, v = torch.linalg.svd(weight, full_matrices=False)
    first, second = (adapter.parameters[f"{NAME}.lora_{half}.weight"].detach() for half in "AB")
    product = (1.4 if rslora else 0.7) * second @ first
    torch.testing.assert_close(product, (u[:, :4] * s[:4]) @ v[:4], atol=1e-5, rtol=0)


def test_it_trains_as_a_lora_on_the_rest_of_the_weight():
    """The published form: the residual is the base, and the same four matrices get the same gradient."""
    model = language.build()
    adapter = attach(model, SPEC)
    language.excite(adapter, 0.02)
    rest = language.build()
    for name in adapter.layers:
        layer = adapter.layers[name]
        start_a, start_b = layer.lora_start_A, layer.lora_start_B
        path = name.partition(".")[2]
        rest.predictor.get_submodule(path).weight.data -= 0.7 * start_b @ start_a
    published = attach(rest, AdapterSpec(4, 2.8))
    with torch.no_grad():
        for name, parameter in published.parameters.items():
            parameter.copy_(adapter.parameters[name])
    torch.testing.assert_close(language.logits(model), language.logits(rest), atol=5e-5, rtol=0)
    for each in (model, rest):
        each.predictor(language.IDS, labels=language.IDS).loss.backward()
    for name, parameter in adapter.parameters.items():
        wanted = published.parameters[name].grad
        torch.testing.assert_close(
            parameter.grad, wanted, atol=1e-5 + 1e-4 * float(wanted.abs().max()), rtol=0
        )


@pytest.mark.parametrize("rslora", [False, True])
def test_saved_it_is_a_lora_of_twice_the_rank_on_the_untouched_base(rslora, tmp_path):
    from peft import PeftModel

    model = language.build()
    adapter = attach(model, AdapterSpec(4, 2.8, init="pissa", rslora=rslora), seed=1)
    language.train(model, adapter)
    plain = to_plain(adapter)
    assert (plain.spec.rank, plain.spec.init, plain.spec.rslora) == (8, "default", False)
    assert plain.spec.scale == pytest.approx(adapter.spec.scale)
    folder = save(adapter, model, tmp_path / "saved")
    fresh = PeftModel.from_pretrained(language.build().predictor, str(folder)).eval()
    with torch.no_grad():
        found = fresh(language.IDS).logits
    torch.testing.assert_close(found, language.logits(model), atol=2e-5, rtol=0)


def test_a_resumed_run_is_the_same_to_the_bit():
    model = language.build()
    adapter = attach(model, SPEC, seed=1)
    language.train(model, adapter)
    kept = {name: p.detach().clone() for name, p in adapter.parameters.items()}
    wanted = language.logits(model)
    other = language.build()
    resumed = attach(other, SPEC, seed=1)
    with torch.no_grad():
        for name, parameter in resumed.parameters.items():
            parameter.copy_(kept[name])
    assert torch.equal(language.logits(other), wanted)
    first, second = to_plain(adapter).tensors, to_plain(resumed).tensors
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_dropout_leaves_the_part_that_is_taken_away_whole():
    """What is dropped on average is nothing; were the frozen part dropped too, the start would have noise."""
    model = language.build()
    adapter = attach(model, AdapterSpec(4, 2.8, init="pissa", dropout=0.5))
    layer = adapter.layers[NAME]
    set_training(model, adapter, True)
    x = torch.randn((4, 64), generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    with torch.no_grad():
        outputs = torch.stack([layer(x) for _ in range(4000)])
        base = layer.base_layer(x)
        first, second = (adapter.parameters[f"{NAME}.lora_{half}.weight"] for half in "AB")
        principal = 0.7 * x @ first.T @ second.T
    torch.testing.assert_close(outputs.mean(0), base, atol=0.15, rtol=0)
    assert not torch.allclose(outputs[0], base, atol=0.15)
    torch.manual_seed(0)
    copied = copy.deepcopy(layer)
    with torch.no_grad():
        copied.lora_A["default"].weight.zero_()
        torch.testing.assert_close(copied(x), base - principal, atol=1e-5, rtol=1e-5)
