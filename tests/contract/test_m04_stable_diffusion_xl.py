"""M4: Stable Diffusion XL by the configuration that comes along, on the demo's pictures and a small base."""

import json
import shutil

import pytest
from safetensors import safe_open

from tests.bases import sdxl
from tests.contract.conftest import ROOT, Desk

SMALL = {
    "resolution": 16, "max_steps": 2, "save_steps": 1, "cache_dir": "./cache", "mixed_precision": "no",
    "batch_size": 4, "validation.split": 0.1, "gradient_accumulation_steps": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Desk:
    root = tmp_path_factory.mktemp("sdxl")
    (root / "data").mkdir()
    (root / "data" / "cyberpunk").symlink_to(ROOT / "data" / "cyberpunk")
    shutil.copy(ROOT / "configs" / "sdxl.yaml", root / "mine.yaml")
    sdxl.folder(root / "folder")
    return Desk(root, sdxl.single(root / "sd_xl_base_1.0.safetensors"))


def options(desk: Desk, **changes: object) -> list[str]:
    values = {"base_model": str(desk.base), **SMALL, **changes}
    return [word for key, value in values.items() for word in ("--set", f"{key}={json.dumps(value)}")]


@pytest.fixture(scope="module")
def trained(desk) -> Desk:
    more = {"train_text_encoder": True, "max_caption_tokens": 150, "validation.split": 0, "save_steps": 2}
    done = desk.train("mine.yaml", *options(desk, **more), "--output-dir", "output/xl")
    assert done.code == 0, done.text
    assert "Stable Diffusion XL" in done.out
    return desk


@pytest.mark.long
def test_m04_the_configuration_that_comes_along_trains_and_leaves_a_file_for_clients(trained):
    assert trained.result("output/xl")["readback"]["layers"] == {
        "unet": 192,
        "text_encoder": 12,
        "text_encoder_2": 12,
    }
    with safe_open(trained.root / "output/xl/xl.safetensors", "pt") as file:
        assert file.metadata()["ss_base_model_version"] == "sdxl_base_v1-0"
        assert file.metadata()["ss_text_encoder_lr"] == "2.5e-05"
        assert {name.split("_")[1] for name in file.keys()} == {"unet", "te1", "te2"}  # noqa: SIM118
    said = trained.cli("inspect", "output/xl/xl.safetensors")
    assert "Stable Diffusion XL" in said.text
    assert "ComfyUI: yes" in said.text


def test_m04_a_wrong_pairing_is_refused_before_anything_is_loaded(desk):
    for family, kind in (("sd15", "holds Stable Diffusion XL"), ("sdxl", None)):
        done = desk.cli("check", "--config", "mine.yaml", *options(desk, family=family))
        assert ("LS4008" in done.text) is (kind is not None)
        assert done.code == (2 if kind else 0), done.text
        assert kind is None or kind in done.text


@pytest.mark.slow
def test_m04_what_was_trained_is_merged_and_drawn(trained):
    lora = "output/xl/xl.safetensors"
    for base, output in (("folder", "merged"), ("sd_xl_base_1.0.safetensors", "merged.safetensors")):
        done = trained.cli("merge", "--base", base, "--lora", f"{lora}:0.8", "--output", output)
        assert done.code == 0, done.text
    size = ("--width", "16", "--height", "16", "--steps", "2", "--prompt", "a red house")
    done = trained.cli("generate", "--base", "merged.safetensors", "--lora", lora, *size, "--output", "g.png")
    assert done.code == 0, done.text
    assert (trained.root / "g.png").exists()


@pytest.mark.slow
def test_m04_random_cuts_convolutions_and_previews_of_a_folder(desk):
    more = {
        "base_model": "./folder", "random_crop": True, "conv_rank": 2, "preview.prompts": ["a red house"],
        "preview.steps": 2, "preview.width": 16, "preview.height": 16,
    }  # fmt: skip
    done = desk.train("mine.yaml", *options(desk, **more), "--output-dir", "output/wide")
    assert done.code == 0, done.text
    assert desk.result("output/wide")["readback"]["layers"]["unet"] > 192
    assert list((desk.root / "output/wide/previews").rglob("*.png"))
