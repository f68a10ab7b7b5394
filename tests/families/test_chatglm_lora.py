"""A LoRA of ChatGLM: on the native classes, through PEFT, merged, and for the layers of the original."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from lora_scripts.adapters.attach import attach
from lora_scripts.adapters.spec import AdapterSpec
from lora_scripts.core.problems import ProblemsError
from lora_scripts.export.original_layout import write_original_layout
from lora_scripts.export.peft_folder import write_peft
from lora_scripts.export.text_facts import TextFacts
from lora_scripts.export.text_proof import read_back_peft
from lora_scripts.families import _chatglm_layout as layout
from lora_scripts.families import _source
from lora_scripts.families.chatglm import FAMILY
from tests.families import chatglm_toy as toy

IDS = torch.randint(0, 700, (1, 33), generator=torch.Generator().manual_seed(5))


@pytest.fixture
def model(tmp_path):
    return FAMILY.load(_source.resolve(str(toy.write(tmp_path / "chatglm3-toy", torch_dtype="float32"))))


def double(state):
    return {name: tensor.double() for name, tensor in state.items()}


def adapted(model, rank=4, **settings):
    adapter = attach(model, AdapterSpec(rank=rank, alpha=6.0, **settings), seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in adapter.parameters.values():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return adapter


def exported(folder, model, **settings):
    adapter = adapted(model, **settings)
    write_peft(folder, model, adapter, TextFacts("mine", {}))
    return adapter


def translated(tmp_path):
    done = write_original_layout(None, tmp_path / "lora", tmp_path / "original")
    settings = json.loads((tmp_path / "original" / "adapter_config.json").read_text())
    state = load_file(tmp_path / "original" / "adapter_model.safetensors")
    assert (done.rank, 2 * done.layers) == (settings["r"], len(state))
    return state, settings


def test_it_sits_on_every_linear_layer_and_comes_back_through_peft(tmp_path, model):
    adapter = exported(tmp_path / "lora", model)
    names = {name.rsplit(".", 1)[-1] for name in adapter.matched["model"]}
    assert names == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj"}
    assert len(adapter.layers) == 6 * toy.LAYERS
    assert read_back_peft(tmp_path / "lora", model, adapter).layers == 6 * toy.LAYERS


@pytest.mark.parametrize("targets", ["auto", ("q_proj", "v_proj", "down_proj")], ids=["all", "some"])
@pytest.mark.parametrize("rslora", [False, True], ids=["lora", "rslora"])
def test_in_the_original_layout_it_has_the_same_effect(tmp_path, model, targets, rslora):
    exported(tmp_path / "lora", model, targets=targets, rslora=rslora)
    with torch.no_grad():
        wanted = model.predictor(IDS).logits[0]
    state, settings = translated(tmp_path)
    rank = settings["r"]
    assert rank == 12
    scale = settings["lora_alpha"] / (rank**0.5 if rslora else rank)
    merged = double(toy.weights())
    for name, first in state.items():
        if name.endswith(".lora_B.weight"):
            continue
        second = state[name.replace("lora_A", "lora_B")]
        assert first.shape[0] == second.shape[1] == rank
        place = name.removeprefix("base_model.model.").replace("lora_A.", "")
        assert place.split(".")[-2] in settings["target_modules"]
        merged[place] += scale * second.double() @ first.double()
    found = toy.logits(merged, IDS[0])
    assert (toy.logits(double(toy.weights()), IDS[0]) - found).abs().max() > 0.1
    assert (found - wanted).abs().max() <= 2e-5


def test_peft_takes_the_original_layout(tmp_path, model):
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
    from torch import nn

    adapter = exported(tmp_path / "lora", model)
    state, settings = translated(tmp_path)
    skeleton = nn.Module()
    for name, shape in toy.shapes().items():
        if name.endswith(".weight") and len(shape) == 2 and "embedding" not in name:
            owner = skeleton
            *path, leaf = name.removesuffix(".weight").split(".")
            for part in path:
                if part not in dict(owner.named_children()):
                    owner.add_module(part, nn.Module())
                owner = owner.get_submodule(part)
            owner.add_module(leaf, nn.Linear(shape[1], shape[0], bias=False))
    kept = ("r", "lora_alpha", "target_modules", "use_rslora")
    inject_adapter_in_model(LoraConfig(**{key: settings[key] for key in kept}), skeleton)
    plain = {name.removeprefix("base_model.model."): tensor for name, tensor in state.items()}
    assert not set_peft_model_state_dict(skeleton, plain).unexpected_keys
    layer = skeleton.get_submodule("transformer.encoder.layers.1.self_attention.query_key_value")
    parts = [adapter.layers[f"model.model.layers.1.self_attn.{name}_proj"] for name in "qkv"]
    wanted = torch.cat([part.get_delta_weight("default") for part in parts])
    torch.testing.assert_close(layer.get_delta_weight("default"), wanted, rtol=0, atol=1e-6)


def test_only_a_plain_lora_of_one_rank_has_an_original_layout(tmp_path, model):
    name = "base_model.model.model.layers.0.mlp.down_proj"
    first, second = torch.zeros(4, toy.INNER), torch.zeros(toy.WIDTH, 4)
    plain = {f"{name}.lora_A.weight": first, f"{name}.lora_B.weight": second}
    with pytest.raises(ValueError, match="5"):
        layout.to_original_layout({**plain, f"{name}.lora_B.weight": torch.zeros(toy.WIDTH, 5)}, toy.CONFIG)
    exported(tmp_path / "lora", model, dora=True)
    with pytest.raises(ProblemsError) as stopped:
        write_original_layout(None, tmp_path / "lora", tmp_path / "original")
    assert [problem.code for problem in stopped.value.problems] == ["LS4301"]
    assert not (tmp_path / "original").exists()


def test_a_base_whose_files_have_the_trained_names_needs_no_translation(tmp_path):
    from lora_scripts.families.causal_lm import FAMILY as CAUSAL
    from tests.texts import small

    folder = small.write_model(tmp_path / "base", "glm")
    exported(tmp_path / "lora", CAUSAL.load(_source.resolve(str(folder))))
    with pytest.raises(ProblemsError) as stopped:
        write_original_layout(None, tmp_path / "lora", tmp_path / "original")
    assert [problem.code for problem in stopped.value.problems] == ["LS4159"]


def test_merged_it_is_a_glm_that_needs_neither_us_nor_foreign_code(tmp_path, model):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from lora_scripts.toolbox.merge import merge

    exported(tmp_path / "lora", model)
    with torch.no_grad():
        wanted = model.predictor(IDS).logits
    merge(None, [str(tmp_path / "lora")], tmp_path / "merged", dtype="float32")
    told = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert (told["model_type"], told["architectures"]) == ("glm", ["GlmForCausalLM"])
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    with torch.no_grad():
        assert (again(IDS).logits - wanted).abs().max() <= 1e-4
    turns = [{"role": "user", "content": "您好"}]
    words = AutoTokenizer.from_pretrained(tmp_path / "merged")
    prompts = [
        t.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
        for t in (words, model.tokenizer)
    ]
    assert prompts[0] == prompts[1]


def test_the_card_speaks_of_what_works(model):
    told = "\n".join(FAMILY.how_to_use("THUDM/chatglm3-6b", "voice", 8))
    assert "AutoPeftModelForCausalLM" not in told
    assert "--to original --base THUDM/chatglm3-6b --lora . --output voice-original" in told
    assert "--max-lora-rank 32 --lora-modules voice=./voice-original" in told
