"""A GGUF adapter holds what llama.cpp computes with: names, order of rows, and one scale that it knows."""

from __future__ import annotations

import pytest
import torch

from lora_scripts.core.problems import ProblemsError
from lora_scripts.export import gguf_adapter, gguf_names
from lora_scripts.export.gguf_file import read_entries, stored_tensors
from lora_scripts.toolbox.gguf_export import export_gguf
from tests.export.text_loras import make


def codes(error):
    return {problem.code for problem in error.value.problems}


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return make(tmp_path_factory.mktemp("llama"), rslora=True)


@pytest.mark.parametrize("heads", [2, 4])
def test_rows_are_paired_and_taken_apart_again(heads):
    rows = torch.arange(32.0)[:, None].repeat(1, 3)
    paired = gguf_names.to_pairs(rows, heads)
    size = 32 // heads
    assert paired[:4, 0].tolist() == [0, size // 2, 1, size // 2 + 1]
    assert torch.equal(gguf_names.to_halves(paired, heads), rows)


def test_the_true_scale_is_folded_into_b(tmp_path, llama):
    done = export_gguf(None, [str(llama.lora)], tmp_path / "a.gguf")
    assert done.count == len(llama.adapter.layers)
    assert done.difference.relative < 1e-4
    head = {item.key: item.value for item in read_entries(tmp_path / "a.gguf")}
    assert head["general.type"] == "adapter"
    assert head["adapter.type"] == "lora"
    assert head["general.architecture"] == "llama"
    assert head["adapter.lora.alpha"] == 4.0
    tensors = {name: tensor for name, _, tensor in stored_tensors(tmp_path / "a.gguf")}
    own = "model.model.layers.1.mlp.down_proj"
    first, second = (llama.adapter.parameters[f"{own}.lora_{half}.weight"] for half in "AB")
    wanted = (6.0 / 2.0) * second @ first  # rsLoRA: alpha / sqrt(rank)
    name = "blk.1.ffn_down.weight"
    got = tensors[f"{name}.lora_b"] @ tensors[f"{name}.lora_a"]  # alpha / rank is one
    assert torch.allclose(wanted, got, atol=1e-5)


def test_rows_of_q_and_k_are_in_llama_cpps_order(tmp_path, llama):
    export_gguf(None, [str(llama.lora)], tmp_path / "a.gguf")
    tensors = {name: tensor for name, _, tensor in stored_tensors(tmp_path / "a.gguf")}
    for leaf, name, heads in (("q", "attn_q", 4), ("k", "attn_k", 2)):
        second = llama.adapter.parameters[f"model.model.layers.0.self_attn.{leaf}_proj.lora_B.weight"]
        got = tensors[f"blk.0.{name}.weight.lora_b"] / 3.0
        assert torch.allclose(gguf_names.to_halves(got, heads), second, atol=1e-6)
        assert not torch.allclose(got, second, atol=1e-3)


def test_rows_left_in_the_old_order_are_caught(tmp_path, llama, monkeypatch):
    monkeypatch.setattr(gguf_adapter, "to_pairs", lambda rows, heads: rows)
    with pytest.raises(ProblemsError) as error:
        export_gguf(None, [str(llama.lora)], tmp_path / "a.gguf")
    assert codes(error) == {"LS4320"}
    assert list(tmp_path.iterdir()) == []


def test_a_strength_scales_it(tmp_path, llama):
    export_gguf(None, [str(llama.lora)], tmp_path / "whole.gguf")
    export_gguf(None, [f"{llama.lora}:0.5"], tmp_path / "half.gguf")
    whole, half = (
        dict((n, t) for n, _, t in stored_tensors(tmp_path / f)) for f in ("whole.gguf", "half.gguf")
    )
    assert torch.allclose(half["blk.0.ffn_up.weight.lora_b"] * 2, whole["blk.0.ffn_up.weight.lora_b"])


def test_equal_adapters_give_equal_files(tmp_path, llama):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        export_gguf(None, [str(llama.lora)], tmp_path / name / "a.gguf", outtype="f16")
    assert (tmp_path / "one" / "a.gguf").read_bytes() == (tmp_path / "two" / "a.gguf").read_bytes()


def test_a_dora_is_refused_with_the_way_out(tmp_path):
    made = make(tmp_path, dora=True)
    with pytest.raises(ProblemsError) as error:
        export_gguf(None, [str(made.lora)], tmp_path / "a.gguf")
    assert codes(error) == {"LS4312"}
    assert export_gguf(None, [str(made.lora)], tmp_path / "m.gguf", merged=True).difference.agreed == 1.0


@pytest.mark.parametrize("kind", ["qwen3_moe", "gpt_oss"])
def test_a_kind_without_a_known_layout_is_refused(tmp_path, kind):
    made = make(tmp_path, kind)
    for merged, code in ((False, "LS4310"), (True, "LS4311")):
        with pytest.raises(ProblemsError) as error:
            export_gguf(None, [str(made.lora)], tmp_path / "a.gguf", merged=merged)
        assert codes(error) == {code}


def test_an_adapted_head_that_is_shared_is_refused(tmp_path):
    made = make(tmp_path, targets=("lm_head", "q_proj"), changes={"tie_word_embeddings": True})
    with pytest.raises(ProblemsError) as error:
        export_gguf(None, [str(made.lora)], tmp_path / "a.gguf")
    assert codes(error) == {"LS4313"}


def test_a_file_that_is_there_and_two_adapters_are_refused(tmp_path, llama):
    (tmp_path / "a.gguf").write_bytes(b"mine")
    with pytest.raises(ProblemsError) as error:
        export_gguf(None, [str(llama.lora)], tmp_path / "a.gguf")
    assert codes(error) == {"LS4308"}
    assert (tmp_path / "a.gguf").read_bytes() == b"mine"
    with pytest.raises(ProblemsError) as error:
        export_gguf(None, [str(llama.lora)] * 2, tmp_path / "b.gguf")
    assert codes(error) == {"LS4319"}


def test_every_known_layout_has_a_name_for_each_linear_layer(tmp_path):
    from tests.texts import small

    for kind, arch in gguf_names.ARCHITECTURES.items():
        named = gguf_names.name_map(arch, 2)
        module = small.model(kind, num_hidden_layers=2) if kind != "gemma3_text" else small.model(kind)
        linear = [n for n, m in module.named_modules() if isinstance(m, torch.nn.Linear) and ".0." in n]
        assert linear
        assert all(named(f"{name}.weight") for name in linear), kind
