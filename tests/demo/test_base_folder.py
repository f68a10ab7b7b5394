"""The shipped base: complete, small, and readable by Diffusers without a network."""

import pytest

from demo.base.folder import FOLDER, LIMIT_BYTES, fingerprint, load_folder

pytestmark = pytest.mark.skipif(not (FOLDER / "model_index.json").exists(), reason="the base was not built")


def test_it_is_small():
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= LIMIT_BYTES


def test_it_holds_safetensors_only():
    assert not [p for p in FOLDER.rglob("*") if p.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl")]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_diffusers_draws_with_it(precision):
    import torch

    pipeline = load_folder(dtype=getattr(torch, precision))
    picture = pipeline("a red tower on the left", num_inference_steps=2, width=160, height=96).images[0]
    assert picture.size == (160, 96)


def test_its_hash_ignores_notes_and_figures(tmp_path):
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text("{}")
    before = fingerprint(tmp_path)
    (tmp_path / "reference.json").write_text("{}")
    (tmp_path / "README.md").write_text("hello")
    assert fingerprint(tmp_path) == before
    (tmp_path / "unet" / "config.json").write_text('{"a": 1}')
    assert fingerprint(tmp_path) != before
