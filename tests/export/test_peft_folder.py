"""The folder is what PEFT itself would write, has the same bytes every time, and is proven by PEFT."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_scripts.core import catalogue
from lora_scripts.core.problems import ProblemsError
from lora_scripts.export.peft_folder import write_peft
from lora_scripts.export.text_proof import encode, next_token_logits, read_back_peft
from tests.export.text_loras import FACTS, load, make
from tests.texts import small

KINDS = {
    "plain": ("llama", {}),
    "dora": ("qwen2", {"dora": True}),
    "rslora": ("qwen3", {"rslora": True}),
    "pissa": ("gemma", {"init": "pissa"}),
    "experts": ("qwen3_moe", {}),
}


def codes(error):
    return {problem.code for problem in error.value.problems}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return make(tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize("name", KINDS)
def test_peft_loads_it_with_the_whole_effect(tmp_path, name):
    kind, spec = KINDS[name]
    made = make(tmp_path, kind, **spec)
    proof = read_back_peft(made.lora, made.model, made.adapter)
    assert proof.layers == len(made.adapter.layers)
    assert proof.difference.relative < 1e-4
    assert proof.difference.agreed == 1.0


@pytest.mark.parametrize("spec", [{}, {"rslora": True}, {"dora": True}], ids=["plain", "rslora", "dora"])
def test_names_and_settings_are_those_of_peft_itself(tmp_path, spec):
    from peft import LoraConfig, get_peft_model

    made = make(tmp_path, **spec)
    given = {"use_rslora": bool(spec.get("rslora")), "use_dora": bool(spec.get("dora"))}
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    config = LoraConfig(r=4, lora_alpha=6.0, target_modules=targets, task_type="CAUSAL_LM", **given)
    get_peft_model(small.model("llama"), config).save_pretrained(str(tmp_path / "peer"))
    ours, theirs = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("lora", "peer"))
    assert {n: t.shape for n, t in ours.items()} == {n: t.shape for n, t in theirs.items()}
    settings = [json.loads((tmp_path / n / "adapter_config.json").read_text()) for n in ("lora", "peer")]
    for setting in settings:
        setting["target_modules"] = sorted(setting["target_modules"])
    settings[1]["base_model_name_or_path"] = str(made.base)
    assert settings[0] == settings[1]


def test_equal_training_gives_equal_bytes(tmp_path, plain):
    for name in ("one", "two"):
        write_peft(tmp_path / name, plain.model, plain.adapter, FACTS)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "two").iterdir())
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    texts = b"".join((tmp_path / "one" / file).read_bytes() for file in files)
    assert b"secret" not in texts
    assert str(tmp_path).encode() not in texts


def test_tokenizer_and_template_come_along(plain):
    from transformers import AutoTokenizer

    read = AutoTokenizer.from_pretrained(str(plain.lora))
    assert read.chat_template == plain.model.tokenizer.chat_template
    assert encode(read) == encode(plain.model.tokenizer)


def test_the_read_back_leaves_the_model_as_it_was(plain):
    ids = encode(plain.model.tokenizer)
    before = next_token_logits(plain.model.predictor, ids)
    modules = {name: id(module) for name, module in plain.model.predictor.named_modules()}
    read_back_peft(plain.lora, plain.model, plain.adapter)
    assert {name: id(module) for name, module in plain.model.predictor.named_modules()} == modules
    assert torch.equal(before, next_token_logits(plain.model.predictor, ids))
    assert all(parameter.requires_grad for parameter in plain.adapter.parameters.values())
    trainable = [n for n, p in plain.model.predictor.named_parameters() if p.requires_grad]
    assert len(trainable) == len(plain.adapter.parameters)


def spoil(made, change):
    path = made.lora / "adapter_model.safetensors"
    tensors = change(load_file(path))
    save_file(tensors, path)


def test_a_wrong_scale_is_caught(tmp_path):
    made = make(tmp_path)
    path = made.lora / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "lora_alpha": 12}))
    with pytest.raises(ProblemsError) as error:
        read_back_peft(made.lora, made.model, made.adapter)
    assert codes(error) == {"LS4305"}


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: {n.replace(".weight", ".default.weight"): t for n, t in tensors.items()},
        lambda tensors: {n.removeprefix("base_model.model."): t for n, t in tensors.items()},
        lambda tensors: dict(list(tensors.items())[2:]),
    ],
    ids=["adapter name inside", "no prefix", "a layer lost"],
)
def test_names_that_peft_passes_over_in_silence_are_caught(tmp_path, change):
    made = make(tmp_path)
    spoil(made, change)
    with pytest.raises(ProblemsError) as error:
        read_back_peft(made.lora, made.model, made.adapter)
    assert codes(error) == {"LS4304"}


def test_numbers_that_are_not_finite_are_not_written(tmp_path):
    made = make(tmp_path)
    next(iter(made.adapter.parameters.values())).data[0, 0] = float("nan")
    with pytest.raises(ProblemsError) as error:
        write_peft(tmp_path / "again", made.model, made.adapter, FACTS)
    assert codes(error) == {"LS4303"}
    assert not (tmp_path / "again" / "adapter_model.safetensors").exists()


@pytest.mark.parametrize("language", catalogue.LANGUAGES)
def test_the_card_says_how_to_use_it_and_what_it_was_measured_at(tmp_path, plain, language, monkeypatch):
    from lora_scripts.export.text_card import card_text

    monkeypatch.setattr(catalogue, "language", lambda: language)
    text = card_text(plain.model, plain.adapter, FACTS)
    for part in (
        "library_name: peft",
        "vllm serve",
        "lora-scripts export",
        "AutoPeftModelForCausalLM",
        "20.1",
    ):
        assert part in text
    assert text.count("---\n") >= 2


def test_a_base_in_half_precision_is_proven_too(tmp_path):
    made = make(tmp_path, dtype=torch.bfloat16)
    assert read_back_peft(made.lora, made.model, made.adapter).difference.relative < 1e-3


def test_prompts_may_be_given_as_token_ids(plain):
    proof = read_back_peft(plain.lora, plain.model, plain.adapter, [[5, 6, 7], [9] * 20])
    assert proof.difference.relative < 1e-4


def test_auto_peft_finds_the_base_by_itself(plain):
    from peft import AutoPeftModelForCausalLM

    ids = encode(plain.model.tokenizer)
    read = AutoPeftModelForCausalLM.from_pretrained(str(plain.lora), dtype=torch.float32)
    wanted = next_token_logits(plain.model.predictor, ids)
    assert torch.allclose(wanted, next_token_logits(read, ids), atol=1e-4)


def test_a_loaded_base_is_not_needed_to_read_one(plain):
    from lora_scripts.export.peft_layers import merged, read_peft

    read = read_peft(plain.lora)
    assert len(read.layers) == len(plain.adapter.layers)
    bare = load(plain.base).predictor
    name = "model.layers.0.mlp.up_proj"
    layer = read.layers[name]
    wanted = bare.get_submodule(name).weight + 1.5 * layer.second @ layer.first
    assert torch.allclose(merged(bare.get_submodule(name).weight, layer), wanted)


@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
def test_a_base_in_fewer_bits_is_not_copied_for_the_proof(tmp_path, quantization):
    from lora_scripts.adapters.attach import attach
    from lora_scripts.adapters.spec import AdapterSpec
    from lora_scripts.families import _source
    from tests.export.text_loras import stir

    base = small.write_model(tmp_path / "base", "llama")
    source = _source.resolve(str(base))
    family = _source.find("auto", source)
    model = family.load(source, quantization=quantization)
    adapter = attach(model, AdapterSpec(4, 6.0), seed=1)
    stir(adapter)
    write_peft(tmp_path / "lora", model, adapter, FACTS)
    proof = read_back_peft(tmp_path / "lora", model, adapter)
    assert proof.layers == 14
    assert proof.difference.relative < 1e-3


def test_checkpointing_is_as_it_was_after_the_proof(tmp_path):
    made = make(tmp_path)
    made.model.family.set_gradient_checkpointing(made.model, True)
    embeddings = made.model.predictor.get_input_embeddings()
    before = dict(embeddings._forward_hooks)
    read_back_peft(made.lora, made.model, made.adapter)
    assert dict(embeddings._forward_hooks) == before
