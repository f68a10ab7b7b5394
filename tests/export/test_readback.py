"""Reading back proves the file: equal where it is right, an error for each way in which it can be wrong."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from lora_scripts.core.problems import ProblemsError
from lora_scripts.export.kohya import export_lora
from lora_scripts.export.readback import read_back
from lora_scripts.export.tensors_file import write_safetensors


@pytest.fixture
def written(tmp_path, load, facts):
    model, adapter = load()
    path = tmp_path / "my.safetensors"
    export_lora(path, model, adapter, facts)
    return model, adapter, path


def spoilt(path, change):
    tensors = load_file(str(path))
    change(tensors)
    write_safetensors(path, tensors, {"ss_network_module": "networks.lora"})


def code_of(call):
    with pytest.raises(ProblemsError) as caught:
        call()
    return caught.value.problems[0].code


def test_a_full_precision_file_gives_exactly_the_trained_outputs(tmp_path, load, facts):
    model, adapter = load()
    export_lora(tmp_path / "x.safetensors", model, adapter, facts, dtype=torch.float32)
    found = read_back(tmp_path / "x.safetensors", model, adapter)
    assert found.layers == {name: len(modules) for name, modules in adapter.matched.items()}
    assert (found.weights, found.output) == (0.0, 0.0)


def test_a_half_precision_file_differs_by_its_rounding_only(written):
    model, adapter, path = written
    found = read_back(path, model, adapter)
    assert found.weights == 0.0
    assert 0 < found.relative < 2e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.long)])
def test_a_half_precision_base_is_compared_too(tmp_path, load, facts, dtype):
    model, adapter = load(dtype=dtype)
    export_lora(tmp_path / "x.safetensors", model, adapter, facts)
    assert read_back(tmp_path / "x.safetensors", model, adapter).relative < 0.06


def test_the_parts_that_left_memory_are_not_needed(tmp_path, load, facts):
    model, adapter = load(text=False)
    model.release("vae", "text_encoder")
    export_lora(tmp_path / "x.safetensors", model, adapter, facts)
    assert read_back(tmp_path / "x.safetensors", model, adapter).layers == {"unet": 72}


def test_a_lost_layer_is_noticed(written):
    model, adapter, path = written

    def lose(tensors):
        for name in [n for n in tensors if "mid_block_attentions_0_proj_in" in n]:
            del tensors[name]

    spoilt(path, lose)
    assert code_of(lambda: read_back(path, model, adapter)) == "LS4031"


def test_a_wrong_alpha_is_noticed(written):
    model, adapter, path = written
    spoilt(
        path, lambda tensors: tensors.update({n: t * 2 for n, t in tensors.items() if n.endswith(".alpha")})
    )
    assert code_of(lambda: read_back(path, model, adapter)) == "LS4032"


def test_swapped_layers_are_noticed(written):
    model, adapter, path = written

    def swap(tensors):
        for end in ("lora_down.weight", "lora_up.weight"):
            one, other = (
                f"lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_{leaf}.{end}"
                for leaf in ("to_q", "to_k")
            )
            tensors[one], tensors[other] = tensors[other], tensors[one]

    spoilt(path, swap)
    assert code_of(lambda: read_back(path, model, adapter)) == "LS4032"


def test_reading_back_changes_nothing(written):
    from lora_scripts.adapters.attach import set_training

    model, adapter, path = written
    set_training(model, adapter, True)
    before = {n: p.detach().clone() for n, p in adapter.parameters.items()}
    names = [n for n, _ in model.modules["unet"].named_modules()]
    state = torch.get_rng_state()
    read_back(path, model, adapter)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[n], p) and p.requires_grad for n, p in adapter.parameters.items())
    assert [n for n, _ in model.modules["unet"].named_modules()] == names
    assert model.modules["unet"].training
    assert not any(
        p.requires_grad for m in model.modules.values() for n, p in m.named_parameters() if "lora_" not in n
    )


def test_the_card_says_how_to_use_it(written, facts):
    from lora_scripts.core.catalogue import use_language
    from lora_scripts.export.card import card_text

    model, adapter, _ = written
    text = card_text(model, adapter, facts, ["previews/sheet.png"])
    assert "<lora:my_style:0.8>" in text
    assert "mystyle" in text
    assert "![](previews/sheet.png)" in text
    assert "secret" not in text
    use_language("zh")
    assert "使用方法" in card_text(model, adapter, facts)


@pytest.mark.long
@pytest.mark.parametrize("options", [{}, {"rslora": True}])
def test_what_has_learnt_next_to_nothing_is_proven_too(tmp_path, load, facts, options):
    """So small that half precision keeps only some bits of it, as after a few steps of Prodigy; a large alpha
    makes it count."""
    model, adapter = load(alpha=2e4, **options)
    with torch.no_grad():
        for name, parameter in adapter.parameters.items():
            if ".lora_B." in name:
                parameter.mul_(5e-7 / 0.05)
    done = export_lora(tmp_path / "x.safetensors", model, adapter, facts)
    before = {name: parameter.clone() for name, parameter in adapter.parameters.items()}
    proof = read_back(done.path, model, adapter)
    assert proof.weights < 1e-2
    assert all(torch.equal(before[name], parameter) for name, parameter in adapter.parameters.items())
