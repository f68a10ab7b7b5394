"""Convolutions, ranks of their own, rsLoRA, DoRA: in the file with one alpha, read back, and as meant."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors import safe_open

from lora_scripts.core.problems import ProblemsError
from lora_scripts.export.dora_proof import decomposed
from lora_scripts.export.kohya import export_lora, lora_tensors
from lora_scripts.export.readback import probe, read_back

CONV = "unet.down_blocks.0.resnets.0.conv1"
MIDDLE = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"


def client(found, name):
    """``alpha / rank * up @ down`` as every client computes it."""
    up, down = found[f"{name}.lora_up.weight"].flatten(1), found[f"{name}.lora_down.weight"].flatten(1)
    return float(found[f"{name}.alpha"]) / down.shape[0] * up @ down


def test_convolutions_are_those_of_sd_scripts_with_a_rank_and_scale_of_their_own(tmp_path, load, facts):
    model, adapter = load(conv_rank=2, conv_alpha=1.0)
    convs = [m for m in adapter.matched["unet"] if len(model.description.modules["unet"][m]) == 4]
    wide = [m for m in convs if model.description.modules["unet"][m][2:] == (3, 3)]
    kinds = {type(model.modules["unet"].get_submodule(m.rsplit(".", 1)[0])).__name__ for m in wide}
    assert kinds == {"ResnetBlock2D", "Downsample2D", "Upsample2D"}
    assert not any(m in ("conv_in", "conv_out") or "time_emb" in m or "shortcut" in m for m in convs)
    found = lora_tensors(model, adapter, torch.float32)
    name = "lora_unet_down_blocks_0_resnets_0_conv1"
    assert found[f"{name}.lora_down.weight"].shape == (2, 32, 3, 3)
    assert found[f"{name}.lora_up.weight"].shape == (32, 2, 1, 1)
    assert {float(t) for n, t in found.items() if n.endswith(".alpha")} == {3.0}
    assert adapter.scale_of(CONV) == 0.5
    ours = adapter.layers[CONV].get_delta_weight("default").flatten(1)
    torch.testing.assert_close(client(found, name), ours)
    done = export_lora(tmp_path / "x.safetensors", model, adapter, facts)
    assert '"conv_dim": "2"' in done.metadata["ss_network_args"]
    assert read_back(done.path, model, adapter).layers["unet"] == len(adapter.matched["unet"])


def test_a_pattern_changes_the_rank_and_not_how_strongly_a_layer_acts(tmp_path, load, facts):
    model, adapter = load(rank_pattern={"mid_block.*": 7, ".*mlp.fc1": 1}, conv_rank=2)
    ranks = {n: adapter.parameters[f"{n}.lora_A.weight"].shape[0] for n in adapter.layers}
    assert ranks[MIDDLE] == 7
    assert ranks["unet.mid_block.resnets.0.conv1"] == 7
    assert {r for n, r in ranks.items() if n.endswith("mlp.fc1")} == {1}
    assert ranks[CONV] == 2
    assert ranks["unet.down_blocks.0.attentions.0.proj_in"] == 4
    scales = {n: adapter.scale_of(n) for n in adapter.layers}
    assert scales[MIDDLE] == pytest.approx(3.0 / 4)
    assert scales[CONV] == pytest.approx(1.0)
    assert scales["unet.mid_block.resnets.0.conv1"] == pytest.approx(1.0)
    found = lora_tensors(model, adapter, torch.float32)
    assert {float(t) for n, t in found.items() if n.endswith(".alpha")} == {3.0}
    for own in (MIDDLE, CONV, "text_encoder.encoder.layers.0.mlp.fc1"):
        ours = adapter.layers[own].get_delta_weight("default").flatten(1)
        torch.testing.assert_close(client(found, model.family.names(*own.split(".", 1))), ours)
    done = export_lora(tmp_path / "x.safetensors", model, adapter, facts)
    read_back(done.path, model, adapter)


def test_rslora_is_scaled_by_the_root_of_each_rank_and_folded(tmp_path, load, facts):
    model, adapter = load(rslora=True, rank_pattern={"mid_block.*": 9})
    assert adapter.scale_of(MIDDLE) == pytest.approx(3.0 / 3)
    assert adapter.scale_of("unet.down_blocks.0.attentions.0.proj_in") == pytest.approx(3.0 / 2)
    found = lora_tensors(model, adapter, torch.float32)
    name = model.family.names(*MIDDLE.split(".", 1))
    assert float(found[f"{name}.alpha"]) == 3.0
    ours = adapter.layers[MIDDLE].get_delta_weight("default")
    torch.testing.assert_close(client(found, name), ours)
    done = export_lora(tmp_path / "x.safetensors", model, adapter, facts)
    read_back(done.path, model, adapter)


def lengthened(adapter):
    with torch.no_grad():
        for name, parameter in adapter.parameters.items():
            if name.endswith("lora_magnitude_vector"):
                parameter.mul_(torch.linspace(0.8, 1.2, parameter.numel()).view(parameter.shape))
    return adapter


def test_a_dora_is_written_with_its_lengths_and_proven(tmp_path, load, facts):
    model, adapter = load(dora=True, conv_rank=2)
    lengthened(adapter)
    done = export_lora(tmp_path / "x.safetensors", model, adapter, facts)
    with safe_open(done.path, "pt") as file:
        scales = {n: file.get_tensor(n) for n in file.keys() if n.endswith(".dora_scale")}  # noqa: SIM118
    assert len(scales) == sum(len(modules) for modules in adapter.matched.values())
    assert scales["lora_unet_down_blocks_0_resnets_0_conv1.dora_scale"].shape == (32, 1, 1, 1)
    assert scales["lora_te_text_model_encoder_layers_0_mlp_fc1.dora_scale"].shape == (128, 1)
    assert done.metadata["ss_network_args"] == '{"conv_alpha": "2", "conv_dim": "2", "dora_wd": "True"}'
    proof = read_back(done.path, model, adapter)
    assert proof.layers == {name: len(modules) for name, modules in adapter.matched.items()}
    assert proof.weights < 1e-3


def test_the_formula_of_a_dora_is_the_one_that_was_trained(load):
    """Against a forward pass through PEFT's own layer."""
    _model, adapter = load(dora=True, conv_rank=2, text=False)
    lengthened(adapter)
    for own, given in ((MIDDLE, torch.randn(3, 64)), (CONV, torch.randn(1, 32, 5, 5))):
        layer = adapter.layers[own]
        down, up = (adapter.parameters[f"{own}.lora_{half}.weight"] for half in "AB")
        lengths = adapter.parameters[f"{own}.lora_magnitude_vector"].flatten()
        base = layer.get_base_layer()
        weight = decomposed(base.weight, up, down, adapter.scale_of(own), lengths)
        bias = base.bias
        if weight.ndim == 2:
            wanted = torch.nn.functional.linear(given, weight, bias)
        else:
            wanted = torch.nn.functional.conv2d(given, weight, bias, base.stride, base.padding)
        torch.testing.assert_close(layer(given), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("damage", ["lost", "longer", "other_alpha"])
def test_a_damaged_dora_is_not_taken_for_a_proof(tmp_path, load, facts, damage):
    from safetensors.torch import load_file, save_file

    model, adapter = load(dora=True)
    done = export_lora(tmp_path / "x.safetensors", model, lengthened(adapter), facts)
    tensors = load_file(str(done.path))
    first = next(name for name in sorted(tensors) if name.endswith(".dora_scale"))
    if damage == "lost":
        del tensors[first]
    elif damage == "longer":
        tensors[first] = tensors[first] * 1.2
    else:
        tensors[first.replace("dora_scale", "alpha")] *= 2
    save_file(tensors, str(done.path))
    with pytest.raises(ProblemsError) as caught:
        read_back(done.path, model, adapter)
    assert caught.value.problems[0].code == ("LS4031" if damage == "lost" else "LS4032")


def test_a_fresh_dora_changes_nothing(load):
    model, adapter = load(dora=True, conv_rank=2)
    with torch.no_grad():
        for name, parameter in adapter.parameters.items():
            if ".lora_B." in name:
                parameter.zero_()
    from lora_scripts.adapters.attach import disabled

    item, draw = probe(model)
    batch = model.family.collate(model, [item], [draw])
    with torch.no_grad():
        trained = model.family.predict(model, batch)
        with disabled(adapter):
            base = model.family.predict(model, batch)
    torch.testing.assert_close(trained, base, rtol=1e-4, atol=1e-5)
    assert math.isfinite(float(trained.sum()))
