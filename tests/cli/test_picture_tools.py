"""``merge`` and ``export`` of picture LoRAs as a user types them."""

from __future__ import annotations

import pytest
from safetensors.torch import load_file

from lora_scripts.cli.main import run
from tests.families import tiny
from tests.toolbox.conftest import make_lora


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny.write_folder(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="module")
def lora(tmp_path_factory, base):
    folder = tmp_path_factory.mktemp("run")
    make_lora(folder / "pytorch_lora_weights.safetensors", base)
    return folder


@pytest.mark.long
def test_a_file_with_averaged_weights_is_merged_and_told(tmp_path, base, lora, capsys):
    single = tiny.write_single(tmp_path / "sd.safetensors", ema=True)
    words = [
        "merge",
        "--base",
        str(single),
        "--lora",
        f"{lora}:0.8",
        "--output",
        str(tmp_path / "m.safetensors"),
    ]
    assert run(words) == 0
    told = capsys.readouterr().out
    assert "72 weights changed" in told
    assert "model_ema" in told
    assert "read back with Diffusers" in told
    assert set(load_file(tmp_path / "m.safetensors")) == set(load_file(single))
    assert run(words) == 2
    assert "LS4308" in capsys.readouterr().err


@pytest.mark.long
def test_a_folder_and_a_precision_and_the_base_that_the_lora_names(tmp_path, base, lora, capsys):
    output = tmp_path / "merged"
    assert run(["merge", "--lora", str(lora), "--output", str(output), "--dtype", "float16"]) == 0
    kinds = {
        str(tensor.dtype) for tensor in load_file(next((output / "unet").glob("*.safetensors"))).values()
    }
    assert kinds == {"torch.float16"}


@pytest.mark.long
def test_the_second_file_in_diffusers_layout(tmp_path, base, lora, capsys):
    words = ["export", "--to", "diffusers", "--base", str(base), "--lora", str(lora)]
    assert run([*words, "--output", str(tmp_path / "d.safetensors")]) == 0
    assert "72 layers" in capsys.readouterr().out
    assert all(name.startswith("unet.") for name in load_file(tmp_path / "d.safetensors"))


def test_targets_of_texts_say_what_a_picture_lora_is(tmp_path, base, lora, capsys):
    file = lora / "pytorch_lora_weights.safetensors"
    assert run(["export", "--to", "gguf", "--lora", str(file), "--output", str(tmp_path / "x.gguf")]) == 2
    assert "LS" in capsys.readouterr().err
