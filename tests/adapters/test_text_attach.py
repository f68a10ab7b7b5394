"""LoRAs of language models: names, kinds, the base left as it is."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from lora_scripts.adapters.attach import attach, detach, disabled
from lora_scripts.adapters.spec import AdapterSpec
from lora_scripts.core.catalogue import render
from lora_scripts.core.problems import ProblemsError
from lora_scripts.families._components import hash_of_module
from tests.adapters import language
from tests.texts import small

KINDS = {
    "plain": {},
    "lean": {},
    "rslora": {"rslora": True},
    "dora": {"dora": True},
    "pissa": {"init": "pissa"},
}


def put_on(model, kind="plain", **options):
    spec = AdapterSpec(4, 2.8, **{**KINDS[kind], **options})
    return attach(model, spec, seed=1, lean=kind == "lean")


def codes(model, *args, **options):
    with pytest.raises(ProblemsError) as caught:
        attach(model, AdapterSpec(*args, **options))
    for problem in caught.value.problems:
        assert all(render(problem, language) for language in ("en", "zh"))
    return [problem.code for problem in caught.value.problems], caught.value.problems[0].params


def test_parameters_have_the_names_that_peft_gives_them():
    model = language.build()
    adapter = put_on(model)
    assert len(adapter.matched["model"]) == 14
    assert set(adapter.parameters) == {
        f"model.model.layers.{block}.{name}.lora_{half}.weight"
        for block in (0, 1)
        for name in (
            *(f"self_attn.{leaf}_proj" for leaf in "qkvo"),
            *(f"mlp.{leaf}_proj" for leaf in ("gate", "up", "down")),
        )
        for half in "AB"
    }
    assert len(put_on(language.build(), targets="attention").layers) == 8
    assert len(put_on(language.build(), targets=("q_proj", "v_proj")).layers) == 4


def test_what_fits_nothing_is_answered_with_the_bases_own_names():
    found, params = codes(language.build(), 4, 4.0, targets=("qq_proj", "w9", "("))
    assert found == ["LS4022", "LS4022", "LS4021"]
    assert params["near"] == "q_proj"
    found, params = codes(language.build(), 4, 4.0, targets=("(",))
    assert params["near"] in {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert codes(language.build(), 4, 4.0, targets=())[0] == ["LS4020"]
    assert codes(language.build(), 4, 4.0, targets="atention")[1]["near"] == "attention"


@pytest.mark.parametrize("kind", KINDS)
def test_it_starts_without_effect_and_off_means_the_base_bit_for_bit(kind):
    model = language.build()
    before, mark = language.logits(model), hash_of_module(model.predictor)
    adapter = put_on(model, kind)
    torch.testing.assert_close(language.logits(model), before, atol=2e-5, rtol=0)
    language.excite(adapter)
    assert (language.logits(model) - before).abs().max() > 0.1
    with disabled(adapter):
        assert torch.equal(language.logits(model), before)
    assert (language.logits(model) - before).abs().max() > 0.1
    assert all(parameter.requires_grad for parameter in adapter.parameters.values())
    assert hash_of_module(model.predictor) == mark
    detach(model, adapter)
    assert torch.equal(language.logits(model), before)
    assert not any("lora" in name for name, _ in model.predictor.named_modules())


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_adapter_learns_and_it_does(kind):
    model = language.build()
    adapter = put_on(model, kind, dropout=0.0 if kind == "dora" else 0.05)
    model.predictor.train()
    mark = hash_of_module(model.predictor)
    losses = language.train(model, adapter)
    assert losses[-1] < losses[0] - 0.3
    assert hash_of_module(model.predictor) == mark
    trained = {id(p) for p in model.predictor.parameters() if p.requires_grad}
    assert trained == {id(p) for p in adapter.parameters.values()}
    assert all(p.grad.abs().max() > 0 and p.grad.dtype == torch.float32 for p in adapter.parameters.values())


def test_rslora_is_scaled_by_the_root_of_the_rank():
    model = language.build()
    adapter = put_on(model, "rslora")
    language.excite(adapter)
    name = "model.model.layers.0.mlp.up_proj"
    assert adapter.spec.scale == adapter.scale_of(name) == 2.8 / math.sqrt(4)
    layer = adapter.layers[name]
    up, down = (adapter.parameters[f"{name}.lora_{half}.weight"].detach() for half in "BA")
    x = torch.randn((3, 64), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(layer(x) - layer.base_layer(x), 1.4 * x @ down.T @ up.T)


def test_dora_turns_the_sum_to_rows_of_learnt_length():
    model = language.build("qwen2")
    adapter = put_on(model, "dora")
    for name, layer in adapter.layers.items():
        lengths = layer.base_layer.weight.square().sum(dim=1).sqrt()
        torch.testing.assert_close(adapter.parameters[f"{name}.lora_magnitude_vector"].detach(), lengths)
    language.excite(adapter)
    name = "model.model.layers.0.self_attn.k_proj"
    layer = adapter.layers[name]
    down, up, length = (
        adapter.parameters[f"{name}.lora_{part}"].detach()
        for part in ("A.weight", "B.weight", "magnitude_vector")
    )
    whole = layer.base_layer.weight + 0.7 * up @ down
    whole = whole * (length / whole.square().sum(dim=1).sqrt())[:, None]
    x = torch.randn((3, 64), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = functional.linear(x, whole, layer.base_layer.bias)
        torch.testing.assert_close(layer(x), wanted, atol=1e-5, rtol=1e-5)


def quantised(tmp_path, **settings):
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    folder = small.write_model(tmp_path / "base")
    module = AutoModelForCausalLM.from_pretrained(
        str(folder), quantization_config=BitsAndBytesConfig(**settings)
    )
    model = language.build()
    model.modules["model"] = model.predictor = module.eval()
    return model


NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}


@pytest.mark.parametrize(
    ("settings", "layer"),
    [(NF4, "Linear4bit"), ({"load_in_8bit": True}, "Linear8bitLt")],
    ids=["4bit", "8bit"],
)
def test_a_quantised_base_trains_on_the_processor_and_stays_what_it_is(tmp_path, settings, layer):
    model = quantised(tmp_path, **settings)
    adapter = put_on(model)
    with disabled(adapter):
        before = language.logits(model)
    mark = hash_of_module(model.predictor)
    assert {type(layer.base_layer).__name__ for layer in adapter.layers.values()} == {layer}
    assert {p.dtype for p in adapter.parameters.values()} == {torch.float32}
    assert torch.equal(language.logits(model), before)
    model.predictor.train()
    losses = language.train(model, adapter)
    assert losses[-1] < losses[0] - 0.3
    model.predictor.eval()
    assert (language.logits(model) - before).abs().max() > 0.1
    with disabled(adapter):
        assert torch.equal(language.logits(model), before)
    assert hash_of_module(model.predictor) == mark
    detach(model, adapter)
    assert codes(model, 4, 4.0, init="pissa")[0] == ["LS4024"]


def test_dora_of_a_quantised_base_starts_from_what_the_base_computes(tmp_path):
    model = quantised(tmp_path, **NF4)
    adapter = put_on(model, "dora")
    with disabled(adapter):
        before = language.logits(model)
    torch.testing.assert_close(language.logits(model), before, atol=2e-3, rtol=0)


def test_kinds_that_exclude_each_other_are_refused():
    assert codes(language.build(), 4, 4.0, init="pissa", dora=True)[0] == ["LS4026"]
    found, params = codes(language.build("qwen3_moe"), 4, 4.0, dora=True)
    assert (found, params["count"]) == (["LS4025"], 4)
    assert params["layer"] == "model.layers.0.mlp.experts.gate_up_proj"
    assert codes(language.build("qwen3_moe"), 4, 4.0, init="pissa")[0] == ["LS4025"]
    assert put_on(language.build("qwen3_moe"), "dora", targets="attention").layers


def test_pissa_of_a_convolution_is_refused(model):
    assert codes(model, 4, 4.0, init="pissa", targets=("conv_in",))[0] == ["LS4025"]


def test_dora_works_on_convolutions(model):
    adapter = attach(model, AdapterSpec(4, 4.0, dora=True, targets=("conv_in",)))
    layer = adapter.layers["unet.conv_in"]
    x = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(layer(x), layer.base_layer(x), atol=1e-5, rtol=1e-5)
