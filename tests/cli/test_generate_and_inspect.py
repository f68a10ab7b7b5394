"""``generate`` and ``inspect`` as a user types them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file


def cli(*words):
    return subprocess.run(
        [sys.executable, "-m", "lora_scripts.cli.main", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    from tests.families import tiny

    return tiny.write_folder(tmp_path_factory.mktemp("base") / "tiny")


def test_inspect_prints_text_json_and_its_regret(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"lora_unet_a.lora_down.weight": torch.zeros(4, 8)}, str(path))
    assert "LoRA" in cli("inspect", path).stdout
    assert json.loads(cli("inspect", path, "--json").stdout)["ranks"] == [4]
    done = cli("inspect", path, "--config")
    assert (done.returncode, done.stdout) == (2, "")
    assert "LS4050" in done.stderr


def test_inspect_needs_no_heavy_packages_until_a_file_is_opened():
    script = (
        "import sys\nfrom lora_scripts.cli.main import run\n"
        "sys.argv = ['lora-scripts', 'generate', '--help']\n"
        "try:\n    run()\nexcept SystemExit:\n    pass\n"
        "assert not {'torch', 'diffusers', 'transformers', 'peft'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.long
def test_generate_writes_a_picture_and_says_where(tmp_path, base):
    done = cli(
        "generate", "--base", base, "--prompt", "a red house", "--steps", 1, "--width", 16, "--height", 16,
        "--output", tmp_path / "霓虹 out.png",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "霓虹 out.png").is_file()
    assert "霓虹 out.png" in done.stdout


def test_generate_says_everything_in_our_words(tmp_path, base):
    done = cli("generate", "--base", base, "--prompt", "a", "--lora", tmp_path / "none.safetensors")
    assert done.returncode == 2
    assert "LS4040" in done.stderr
    assert "Traceback" not in done.stderr
