"""Going on from an earlier LoRA: the same effect to begin with, or an error that names what does not fit."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_scripts.adapters.attach import attach
from lora_scripts.adapters.spec import AdapterSpec
from lora_scripts.core.catalogue import render
from lora_scripts.core.problems import ProblemsError
from lora_scripts.export.earlier import fitted, put_into
from lora_scripts.export.kohya import export_lora
from lora_scripts.export.readback import probe
from tests.families.loaded import load as load_base


def predicted(model):
    item, draw = probe(model)
    with torch.no_grad():
        return model.family.predict(model, model.family.collate(model, [item], [draw]))


def written(path, tensors):
    save_file(tensors, str(path))
    return path


def fresh(folder, spec, text=True):
    model = load_base(folder)
    return model, attach(model, spec, train_text_encoder=text, seed=9)


def go_on(path, model, adapter):
    found = fitted(path, model.family, model.description.modules, adapter.matched, adapter.spec)
    return put_into(found, model, adapter)


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param(AdapterSpec(4, 4.0), marks=pytest.mark.long),
        AdapterSpec(8, 1.0),
        pytest.param(AdapterSpec(4, 3.0, rslora=True), marks=pytest.mark.long),
        pytest.param(AdapterSpec(4, 2.0, rank_pattern={"mid_block.*": 6}), marks=pytest.mark.long),
        pytest.param(AdapterSpec(5, 2.0, dora=True), marks=pytest.mark.long),
    ],
)
def test_it_begins_with_the_files_effect_whatever_rank_and_alpha(tmp_path, load, facts, folder, spec):
    model, adapter = load(alpha=3.0)
    done = export_lora(tmp_path / "x.safetensors", model, adapter, facts, dtype=torch.float32)
    wanted = predicted(model)
    other, second = fresh(folder, spec)
    untouched = predicted(other)
    assert go_on(done.path, other, second) == done.layers
    torch.testing.assert_close(predicted(other), wanted, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(untouched, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.long
def test_a_dora_goes_on_with_its_lengths(tmp_path, load, facts, folder):
    model, adapter = load(dora=True, conv_rank=2)
    with torch.no_grad():
        for name, parameter in adapter.parameters.items():
            if name.endswith("lora_magnitude_vector"):
                parameter.mul_(1.1)
    done = export_lora(tmp_path / "x.safetensors", model, adapter, facts, dtype=torch.float32)
    other, second = fresh(folder, AdapterSpec(4, 2.0, dora=True, conv_rank=3))
    go_on(done.path, other, second)
    torch.testing.assert_close(predicted(other), predicted(model), rtol=1e-3, atol=1e-4)


def test_a_file_of_another_trainer_with_its_alphas_and_names(tmp_path, load, facts, folder):
    """No alpha means a scale of one; ``lora_te1_`` is some trainers' name for the one text encoder."""
    model, adapter = load(alpha=4.0)
    done = export_lora(tmp_path / "x.safetensors", model, adapter, facts, dtype=torch.float32)
    tensors = {
        name.replace("lora_te_", "lora_te1_"): tensor
        for name, tensor in load_file(str(done.path)).items()
        if not name.endswith(".alpha")
    }
    other, second = fresh(folder, AdapterSpec(4, 4.0))
    go_on(written(tmp_path / "other.safetensors", tensors), other, second)
    torch.testing.assert_close(predicted(other), predicted(model), rtol=1e-3, atol=1e-4)


def test_layers_that_the_file_lacks_start_without_effect(tmp_path, load, facts, folder):
    model, adapter = load(text=False)
    done = export_lora(tmp_path / "x.safetensors", model, adapter, facts)
    other, second = fresh(folder, AdapterSpec(4, 4.0, conv_rank=2))
    go_on(done.path, other, second)
    for name, parameter in second.parameters.items():
        if ".lora_B." in name:
            known = name.removesuffix(".lora_B.weight").partition(".")
            assert bool(parameter.any()) is (known[2] in adapter.matched.get(known[0], ())), name


def code(path, model, adapter):
    with pytest.raises(ProblemsError) as caught:
        go_on(path, model, adapter)
    assert all(render(problem, language) for problem in caught.value.problems for language in ("en", "zh"))
    return [problem.code for problem in caught.value.problems]


@pytest.mark.long
def test_what_does_not_fit_is_named(tmp_path, load, facts, folder):
    model, adapter = load()
    done = export_lora(tmp_path / "x.safetensors", model, adapter, facts)
    tensors = load_file(str(done.path))
    spec = AdapterSpec(4, 4.0)
    assert code(done.path, *fresh(folder, spec, text=False)) == ["LS4411"]
    assert code(done.path, *fresh(folder, AdapterSpec(3, 3.0))) == ["LS4413"]
    assert code(done.path, *fresh(folder, AdapterSpec(4, 4.0, targets="attention"))) == ["LS4411"]
    name = "lora_unet_mid_block_attentions_0_proj_in"
    wide = {**tensors, f"{name}.lora_down.weight": torch.zeros(4, 65, 1, 1)}
    assert code(written(tmp_path / "wide.safetensors", wide), *fresh(folder, spec)) == ["LS4412"]
    length = {**tensors, f"{name}.dora_scale": torch.ones(64, 1, 1, 1)}
    assert code(written(tmp_path / "dora.safetensors", length), *fresh(folder, spec)) == ["LS4414"]
    half = {n: t for n, t in tensors.items() if n != f"{name}.lora_up.weight"}
    assert code(written(tmp_path / "half.safetensors", half), *fresh(folder, spec)) == ["LS4410"]
    loha = {f"{name}.hada_w1_a": torch.zeros(4, 4)}
    assert code(written(tmp_path / "loha.safetensors", loha), *fresh(folder, spec)) == ["LS4410"]
    peft = {"unet.mid_block.attentions.0.proj_in.lora_A.weight": torch.zeros(4, 4)}
    assert code(written(tmp_path / "peft.safetensors", peft), *fresh(folder, spec)) == ["LS4410"]


@pytest.mark.long
def test_pairs_of_zeros_beside_trained_ones_are_passed_over(tmp_path, facts):
    """As Stable Diffusion 2.x files have them; one that is not zero would be lost."""
    from tests.families import tiny
    from tests.families.test_sd2 import trained

    folder = tiny.write_folder(tmp_path / "sd2", tiny.parts(second=True), prediction_type="epsilon")
    targets = ("to_q", "self_attn.q_proj")
    model = load_base(folder)
    done = export_lora(tmp_path / "x.safetensors", model, trained(model, targets), facts, dtype=torch.float32)
    other, second = fresh(folder, AdapterSpec(2, 2.0, targets=targets))
    go_on(done.path, other, second)
    torch.testing.assert_close(predicted(other), predicted(model), rtol=1e-3, atol=1e-4)
    tensors = load_file(str(done.path))
    tensors["lora_te_text_model_encoder_layers_1_self_attn_k_proj.lora_up.weight"] += 1
    assert code(written(tmp_path / "y.safetensors", tensors), *fresh(folder, second.spec)) == ["LS4411"]
