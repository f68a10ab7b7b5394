"""Adapters in their base for good: exact, proven by logits, from files or from the loaded model."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from lora_scripts.core.problems import ProblemsError
from lora_scripts.export import merged_weights
from lora_scripts.export.text_proof import encode, next_token_logits
from lora_scripts.toolbox.merge import merge, parse_worn
from tests.export.text_loras import load, make
from tests.texts import small


def codes(error):
    return {problem.code for problem in error.value.problems}


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return make(tmp_path_factory.mktemp("llama"))


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        ("llama", {}),
        ("qwen2", {"dora": True}),
        ("qwen3", {"rslora": True}),
        ("glm4", {}),
        ("qwen3_moe", {}),
        ("gpt_oss", {}),
    ],
    ids=["plain", "dora", "rslora", "glm4", "experts", "transposed experts"],
)
def test_the_folder_does_what_the_adapter_does(tmp_path, kind, spec):
    made = make(tmp_path, kind, **spec)
    done = merge(None, [str(made.lora)], tmp_path / "merged")
    assert done.difference.relative < 1e-4
    assert done.layers == len(made.adapter.layers)
    ids = encode(made.model.tokenizer)
    read = load(tmp_path / "merged")
    wanted = next_token_logits(made.model.predictor, ids)
    assert torch.allclose(wanted, next_token_logits(read.predictor, ids), atol=1e-3)
    assert read.tokenizer.chat_template == made.model.tokenizer.chat_template


def test_the_sum_is_taken_in_full_precision_and_cast_once(tmp_path, llama):
    merge(str(llama.base), [str(llama.lora)], tmp_path / "half", dtype="bfloat16")
    tensors = load_file(tmp_path / "half" / "model.safetensors")
    name = "model.layers.1.self_attn.v_proj"
    first, second = (llama.adapter.parameters[f"model.{name}.lora_{half}.weight"] for half in "AB")
    base = load_file(llama.base / "model.safetensors")[f"{name}.weight"]
    wanted = (base + 1.5 * second.detach() @ first.detach()).to(torch.bfloat16)
    assert torch.equal(tensors[f"{name}.weight"], wanted)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "bfloat16"


def test_files_stay_split_as_the_base_is(tmp_path):
    made = make(tmp_path)
    small.model("llama").save_pretrained(str(made.base), max_shard_size="60KB")
    (made.base / "model.safetensors").unlink()
    counted = []
    merge(None, [str(made.lora)], tmp_path / "m", progress=lambda done, total: counted.append((done, total)))
    files = sorted(path.name for path in (tmp_path / "m").glob("*.safetensors"))
    assert files == sorted(path.name for path in made.base.glob("*.safetensors"))
    assert len(files) > 2
    assert counted[-1] == (len(files), len(files))
    index = json.loads((tmp_path / "m" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == set(files)


def test_several_adapters_add_up_by_their_strengths(tmp_path, llama):
    other = make(tmp_path, base=llama.base, seed=5)
    merge(None, [f"{llama.lora}:0.5", f"{other.lora}:-2"], tmp_path / "both")
    name = "model.layers.0.mlp.gate_proj"
    total = load_file(llama.base / "model.safetensors")[f"{name}.weight"]
    for made, strength in ((llama, 0.5), (other, -2.0)):
        first, second = (made.adapter.parameters[f"model.{name}.lora_{half}.weight"] for half in "AB")
        total = total + strength * 1.5 * second.detach() @ first.detach()
    got = load_file(tmp_path / "both" / "model.safetensors")[f"{name}.weight"]
    assert torch.allclose(total, got, atol=1e-5)


def test_strength_zero_is_the_base(tmp_path, llama):
    merge(None, [f"{llama.lora}:0"], tmp_path / "same")
    base, same = (load_file(path / "model.safetensors") for path in (llama.base, tmp_path / "same"))
    assert all(torch.equal(base[name], same[name]) for name in base)


def test_a_shared_head_gets_weights_of_its_own(tmp_path):
    made = make(tmp_path, targets=("lm_head", "q_proj"), changes={"tie_word_embeddings": True})
    done = merge(None, [str(made.lora)], tmp_path / "m")
    tensors = load_file(tmp_path / "m" / "model.safetensors")
    base = load_file(made.base / "model.safetensors")
    assert torch.equal(tensors["model.embed_tokens.weight"], base["model.embed_tokens.weight"])
    assert not torch.equal(tensors["lm_head.weight"], base["model.embed_tokens.weight"])
    assert json.loads((tmp_path / "m" / "config.json").read_text())["tie_word_embeddings"] is False
    assert done.difference.relative < 1e-4


def test_a_wrong_sum_is_caught_and_nothing_is_left(tmp_path, llama, monkeypatch):
    real = merged_weights.merged
    monkeypatch.setattr(merged_weights, "merged", lambda weight, layer, strength: real(weight, layer, 1.5))
    with pytest.raises(ProblemsError) as error:
        merge(None, [str(llama.lora)], tmp_path / "m")
    assert codes(error) == {"LS4320"}
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_of_another_base_is_refused(tmp_path, llama):
    small.write_model(tmp_path / "wide", "llama", hidden_size=128)
    with pytest.raises(ProblemsError) as error:
        merge(str(tmp_path / "wide"), [str(llama.lora)], tmp_path / "m")
    assert codes(error) == {"LS4306"}
    assert not (tmp_path / "m").exists()


def test_a_base_in_fewer_bits_is_refused(tmp_path, llama):
    base = small.write_model(tmp_path / "q", "llama")
    config = json.loads((base / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (base / "config.json").write_text(json.dumps(config))
    with pytest.raises(ProblemsError) as error:
        merge(str(base), [str(llama.lora)], tmp_path / "m")
    assert codes(error) == {"LS4307"}


def test_nothing_is_overwritten(tmp_path, llama):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model.safetensors").write_bytes(b"mine")
    with pytest.raises(ProblemsError) as error:
        merge(None, [str(llama.lora)], tmp_path / "m")
    assert codes(error) == {"LS4308"}


def test_an_adapter_may_be_named_by_its_file(llama):
    assert parse_worn(str(llama.lora / "adapter_model.safetensors")).adapter.path == llama.lora
    assert parse_worn(f"{llama.lora}:0.25").strength == 0.25


def test_adapters_that_cannot_be_merged_are_refused_with_the_reason(tmp_path, llama):
    with pytest.raises(ProblemsError) as error:
        parse_worn(str(tmp_path))
    assert codes(error) == {"LS4300"}
    dora = make(tmp_path / "dora", dora=True)
    with pytest.raises(ProblemsError) as error:
        parse_worn(f"{dora.lora}:0.5")
    assert codes(error) == {"LS4309"}
    path = dora.lora / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "modules_to_save": ["lm_head"]}))
    with pytest.raises(ProblemsError) as error:
        parse_worn(str(dora.lora))
    assert codes(error) == {"LS4301"}


def test_patterns_of_rank_and_alpha_are_heeded(tmp_path):
    from peft import LoraConfig, get_peft_model

    base = small.write_model(tmp_path / "base", "llama")
    config = LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=["q_proj", "down_proj"],
        rank_pattern={"down_proj": 2},
        alpha_pattern={"layers.1.self_attn.q_proj": 3},
        task_type="CAUSAL_LM",
        init_lora_weights=False,
        base_model_name_or_path=str(base),
    )
    get_peft_model(small.model("llama"), config).save_pretrained(str(tmp_path / "peer"))
    done = merge(str(base), [str(tmp_path / "peer")], tmp_path / "m")
    assert done.difference.relative < 1e-4


def test_a_gguf_base_is_dequantised_and_said(tmp_path):
    from lora_scripts.toolbox.gguf_export import export_gguf

    made = make(tmp_path)
    export_gguf(None, [f"{made.lora}:0"], tmp_path / "base.gguf", merged=True, outtype="q8_0")
    done = merge(str(tmp_path / "base.gguf"), [str(made.lora)], tmp_path / "m")
    assert done.dequantised
    assert done.dtype == "float16"
    assert done.difference.relative < 1e-2


def test_the_command_says_what_it_proved(tmp_path, llama, capsys):
    from lora_scripts.cli.main import run

    assert run(["merge", "--lora", str(llama.lora), "--output", str(tmp_path / "m")]) == 0
    assert str(tmp_path / "m") in capsys.readouterr().out
    assert (tmp_path / "m" / "model.safetensors").is_file()
    assert run(["merge", "--lora", str(llama.lora), "--output", str(tmp_path / "n"), "--dtype", "int3"]) == 2
    assert (
        run(["export", "--to", "gguf", "--lora", str(llama.lora), "--output", str(tmp_path / "a.gguf")]) == 0
    )
    assert (tmp_path / "Modelfile").read_text().startswith("# lora-scripts")
    assert run(["export", "--to", "onnx", "--lora", str(llama.lora), "--output", str(tmp_path / "b")]) == 2
