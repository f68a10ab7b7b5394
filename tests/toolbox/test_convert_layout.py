"""The second file, in Diffusers' layout: alpha is in the weights, and Diffusers applies every layer."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_scripts.core.problems import ProblemsError
from lora_scripts.toolbox import convert_layout
from lora_scripts.toolbox.convert_layout import export_diffusers
from tests.toolbox.test_merge_pictures import CONV, TEXT, Q, wide


def test_names_shapes_and_the_folded_alpha(tmp_path, folder):
    path, halves = wide(tmp_path / "x.safetensors", alpha=3.0)
    done = export_diffusers(str(folder), str(path), tmp_path / "d.safetensors")
    found = load_file(done.path)
    names = {Q: f"unet.{Q}", CONV: f"unet.{CONV}", TEXT: f"text_encoder.text_model.{TEXT}"}
    assert set(found) == {f"{name}.lora_{half}.weight" for name in names.values() for half in "AB"}
    for module, (down, up) in halves.items():
        assert torch.equal(found[f"{names[module]}.lora_A.weight"], down)
        torch.testing.assert_close(found[f"{names[module]}.lora_B.weight"], 1.5 * up)
    assert (done.layers, done.proof.layers) == (3, (3,))
    assert done.proof.relative < 1e-3


def test_a_strength_goes_into_the_file(tmp_path, folder):
    path, halves = wide(tmp_path / "x.safetensors", alpha=2.0)
    done = export_diffusers(str(folder), f"{path}:0.5", tmp_path / "d.safetensors")
    torch.testing.assert_close(load_file(done.path)[f"unet.{Q}.lora_B.weight"], 0.5 * halves[Q][1])


def test_layers_of_different_alphas_that_diffusers_reads_wrongly_come_out_right(tmp_path, folder):
    path, _ = wide(tmp_path / "x.safetensors", alpha=2.0)
    tensors = load_file(path)
    tensors["lora_unet_" + Q.replace(".", "_") + ".alpha"] = torch.tensor(0.5)
    save_file(tensors, str(path))
    done = export_diffusers(str(folder), str(path), tmp_path / "d.safetensors")
    assert done.proof.relative < 1e-3


def test_a_dora_keeps_its_lengths(tmp_path, folder):
    path, _ = wide(tmp_path / "x.safetensors")
    tensors = load_file(path)
    for module, start, rows in (
        (Q, "lora_unet_", 32),
        (CONV, "lora_unet_", 32),
        (TEXT, "lora_te_text_model_", 64),
    ):
        shape = (rows, 1, 1, 1) if module is CONV else (rows, 1)
        tensors[f"{start}{module.replace('.', '_')}.dora_scale"] = torch.linspace(0.5, 2, rows).view(shape)
    save_file(tensors, str(path))
    done = export_diffusers(str(folder), str(path), tmp_path / "d.safetensors")
    assert sum(name.endswith(".lora_magnitude_vector.weight") for name in load_file(done.path)) == 3
    assert done.proof.relative < 1e-3


def test_the_layout_of_early_diffusers_is_brought_up_to_date(tmp_path, folder):
    """Diffusers of today applies no layer of such a file."""
    down, up = torch.randn(2, 32), torch.randn(32, 2)
    old = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.processor.to_out_lora"
    save_file({f"{old}.down.weight": down, f"{old}.up.weight": up}, str(tmp_path / "old.safetensors"))
    done = export_diffusers(str(folder), str(tmp_path / "old.safetensors"), tmp_path / "d.safetensors")
    name = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0"
    assert torch.equal(load_file(done.path)[f"{name}.lora_B.weight"], up)
    assert done.proof.layers == (1,)


def test_a_wrong_factor_is_caught_and_nothing_is_left(tmp_path, folder, monkeypatch):
    path, _ = wide(tmp_path / "x.safetensors")
    real = convert_layout.write_diffusers
    monkeypatch.setattr(
        convert_layout, "write_diffusers", lambda path, worn, family, _: real(path, worn, family, 1.3)
    )
    with pytest.raises(ProblemsError) as error:
        export_diffusers(str(folder), str(path), tmp_path / "out" / "d.safetensors")
    assert [problem.code for problem in error.value.problems] == ["LS4454"]
    assert list((tmp_path / "out").iterdir()) == []
