"""Mixtures of experts, whose weights are one fused parameter for all experts."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from lora_scripts.adapters.attach import attach, detach, disabled, set_training
from lora_scripts.adapters.plain import to_plain
from lora_scripts.adapters.spec import AdapterSpec
from lora_scripts.families._components import hash_of_module
from tests.adapters import language
from tests.texts import small


def save(adapter, model, folder):
    """The adapter as a PEFT folder, by PEFT's own classes."""
    from peft import LoraConfig

    plain = to_plain(adapter)
    folder.mkdir()
    tensors = {name: tensor.contiguous() for name, tensor in plain.peft_tensors().items()}
    save_file(tensors, str(folder / "adapter_model.safetensors"))
    settings = plain.peft_settings(model.description.modules["model"])
    LoraConfig(task_type="CAUSAL_LM", **settings).save_pretrained(str(folder))
    return folder


def reloaded(kind, folder):
    from peft import PeftModel

    fresh = small.model(kind, **language.MIXTURES[kind])
    with torch.no_grad():
        return PeftModel.from_pretrained(fresh, str(folder)).eval()(language.IDS).logits


@pytest.mark.parametrize("kind", language.MIXTURES)
def test_experts_are_counted_trained_saved_and_read_by_peft(kind, tmp_path):
    model = language.build(kind)
    before, mark = language.logits(model), hash_of_module(model.predictor)
    adapter = attach(model, AdapterSpec(3, 2.1, dropout=0.1), seed=1)
    experts = [name for name in adapter.matched["model"] if ".experts." in name]
    assert len(experts) == 4
    assert len(adapter.layers) == len(adapter.matched["model"]) == (18 if kind == "qwen2_moe" else 12)
    assert torch.equal(language.logits(model), before)
    set_training(model, adapter, True)
    losses = language.train(model, adapter)
    assert losses[-1] < losses[0] - 0.3
    set_training(model, adapter, False)
    after = language.logits(model)
    with disabled(adapter):
        assert torch.equal(language.logits(model), before)
    assert hash_of_module(model.predictor) == mark
    folder = save(adapter, model, tmp_path / "saved")
    torch.testing.assert_close(reloaded(kind, folder), after, atol=1e-5, rtol=1e-5)
    detach(model, adapter)
    assert torch.equal(language.logits(model), before)
    assert not any("lora" in name for name, _ in model.predictor.named_modules())


@pytest.mark.parametrize("kind", ["qwen3_moe", "gpt_oss"])
def test_names_are_those_that_peft_itself_saves(kind, tmp_path):
    from peft import LoraConfig, get_peft_model

    model = language.build(kind)
    adapter = attach(model, AdapterSpec(3, 2.1))
    ours = to_plain(adapter).peft_tensors()
    settings = to_plain(adapter).peft_settings(model.description.modules["model"])
    theirs = get_peft_model(language.build(kind).predictor, LoraConfig(**settings))
    theirs.save_pretrained(str(tmp_path))
    from safetensors.torch import load_file

    saved = load_file(str(tmp_path / "adapter_model.safetensors"))
    assert {n: t.shape for n, t in ours.items()} == {n: t.shape for n, t in saved.items()}
    assert json.loads((tmp_path / "adapter_config.json").read_text())["target_parameters"]


def test_an_experts_delta_is_its_own_product():
    model = language.build("qwen3_moe")
    adapter = attach(model, AdapterSpec(3, 2.1))
    language.excite(adapter)
    name = "model.model.layers.0.mlp.experts.gate_up_proj"
    layer, path = adapter.layers[name], adapter.paths[name]
    assert path == "model.model.layers.0.mlp.experts.base_layer"
    first = adapter.parameters[f"{path}.lora_A.weight"].detach()
    second = adapter.parameters[f"{path}.lora_B.weight"].detach()
    found = layer.get_delta_weight("default").detach()
    for expert in range(4):
        rows, columns = slice(3 * expert, 3 * expert + 3), slice(expert, None, 4)
        torch.testing.assert_close(found[expert], 0.7 * second[:, columns] @ first[rows])


def test_start_values_depend_on_seed_and_name_alone():
    def start(seed, **options):
        adapter = attach(language.build("qwen3_moe"), AdapterSpec(3, 2.1, **options), seed=seed)
        paths = {path: name for name, path in adapter.paths.items()}
        return {paths[n.rpartition(".lora_")[0]] + n[-9:]: p.detach() for n, p in adapter.parameters.items()}

    full, again, other, part = start(1), start(1), start(2), start(1, targets=("gate_up_proj",))
    drawn = [name for name in full if name.endswith("A.weight")]
    assert all(torch.equal(full[name], again[name]) for name in full)
    assert not any(torch.equal(full[name], other[name]) for name in drawn)
    assert len(part) == 4
    assert all(torch.equal(part[name], full[name]) for name in part)
    assert len({float(full[name].sum()) for name in drawn}) == len(drawn)


def test_a_shared_expert_is_named_so_that_peft_does_not_take_it_for_a_fused_one():
    model = language.build("qwen2_moe")
    adapter = attach(model, AdapterSpec(3, 2.1))
    settings = to_plain(adapter).peft_settings(model.description.modules["model"])
    assert settings["target_modules"] == ["k_proj", "o_proj", "q_proj", "v_proj"]
    assert "model.layers.1.mlp.shared_expert.up_proj.weight" in settings["target_parameters"]
    dense = language.build("llama")
    plain = to_plain(attach(dense, AdapterSpec(3, 2.1, dropout=0.1)))
    settings = plain.peft_settings(dense.description.modules["model"])
    assert settings["target_parameters"] is None
    assert (len(settings["target_modules"]), settings["lora_dropout"]) == (7, 0.1)


def test_targets_are_named_in_full_where_last_parts_would_mean_more():
    model = language.build()
    first_block = (r"model\.layers\.0\.self_attn\..*",)
    plain = to_plain(attach(model, AdapterSpec(3, 2.1, targets=first_block)))
    found = plain.peft_settings(model.description.modules["model"])["target_modules"]
    assert found == [f"model.layers.0.self_attn.{leaf}_proj" for leaf in "koqv"]
