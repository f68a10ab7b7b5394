"""A pickle given as a model, under its own name or another's: refused wherever it can enter, never opened."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.contract.conftest import (
    Done,
    command,
    draw_pictures,
    write_rows,
)
from tests.security.canaries import KINDS, archived, opens

WRONG = {".safetensors": "LS4003", ".ckpt": "LS4002", ".pt": "LS4002", ".bin": "LS4002"}


@pytest.fixture
def mark(tmp_path) -> Path:
    return tmp_path / "ran"


@pytest.mark.parametrize("kind", KINDS)
def test_the_canaries_sing_where_they_are_opened(kind, tmp_path, mark):
    path = KINDS[kind](tmp_path / "model.ckpt", mark)
    opens(path)
    assert mark.exists()


@pytest.fixture(scope="module")
def desk(make_desk):
    return make_desk()


def refused(done: Done, code: str, mark: Path, path: Path) -> None:
    assert done.code == 2, done.text
    assert code in done.err
    assert "Traceback" not in done.text
    assert not mark.exists()
    if code == "LS4002":
        assert f'lora-scripts convert "{path}"' in done.err


ONE_FILE: dict[str, Callable[[str], list[str]]] = {
    "inspect": lambda file: ["inspect", file],
    "lora": lambda file: ["generate", "--base", "BASE", "--lora", file, "--prompt", "x", "--output", "x.png"],
    "second lora": lambda file: ["generate", "--base", "BASE", "--lora", f"{file}:0.5", "--prompt", "x"],
    "merge": lambda file: ["merge", "--base", "BASE", "--lora", file, "--output", "merged"],
    "export": lambda file: [
        "export",
        "--base",
        "BASE",
        "--lora",
        file,
        "--to",
        "kohya",
        "--output",
        "k.safetensors",
    ],
    "export gguf": lambda file: ["export", "--lora", file, "--output", "k.gguf"],
    "generate base": lambda file: ["generate", "--base", file, "--prompt", "x", "--output", "x.png"],
    "chat base": lambda file: ["chat", "--base", file, "--ask", "x"],
    "base": lambda file: ["check", "--config", "run.yaml", "--set", f"base_model={file}"],
    "init_from": lambda file: ["check", "--config", "run.yaml", "--set", f"init_from={file}"],
    "vae": lambda file: ["check", "--config", "run.yaml", "--set", f"components={{vae: {file}}}"],
}


@pytest.mark.parametrize("suffix", WRONG)
@pytest.mark.parametrize("entry", ONE_FILE)
def test_one_file_is_refused_with_what_to_type(entry, suffix, desk, tmp_path, mark):
    path = archived(tmp_path / f"evil{suffix}", mark)
    desk.config()
    words = [str(desk.base) if word == "BASE" else word for word in ONE_FILE[entry](str(path))]
    refused(desk.cli(*words), WRONG[suffix], mark, path)


@pytest.mark.parametrize("kind", KINDS)
def test_every_form_of_pickle_is_seen_through(kind, desk, tmp_path, mark):
    path = KINDS[kind](tmp_path / "evil.safetensors", mark)
    refused(desk.cli("inspect", path), "LS4003", mark, path)


@pytest.mark.parametrize(
    "part", ["unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"]
)
def test_a_part_of_a_folder_that_poses(part, desk, tmp_path, mark):
    folder = shutil.copytree(desk.base, tmp_path / "base")
    archived(folder / f"{part}.safetensors", mark)
    desk.config(base_model=str(folder))
    refused(desk.cli("check", "--config", "run.yaml"), "LS4003", mark, folder)


def test_a_part_that_is_there_as_a_pickle_only(desk, tmp_path, mark):
    folder = shutil.copytree(desk.base, tmp_path / "base")
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    archived(folder / "unet" / "diffusion_pytorch_model.bin", mark)
    desk.config(base_model=str(folder), family="sd15")
    done = desk.cli("check", "--config", "run.yaml")
    assert done.code == 2, done.text
    assert not mark.exists()


@pytest.fixture
def language_model(tmp_path, tiny_chat_base) -> Path:
    return shutil.copytree(tiny_chat_base, tmp_path / "chat")


def text_check(base: Path, folder: Path) -> Done:
    write_rows(folder / "rows.jsonl")
    values = {
        "task_type": "text-generation", "metadata_path": "./rows.jsonl", "base_model": str(base),
        "output_dir": "./output/voice", "train_data_dir": ".", "max_steps": 1,
    }  # fmt: skip
    (folder / "run.yaml").write_text(json.dumps(values), encoding="utf-8")
    return command("check", "--config", "run.yaml", cwd=folder)


def test_a_language_model_that_poses(language_model, tmp_path, mark):
    archived(language_model / "model.safetensors", mark)
    refused(text_check(language_model, tmp_path), "LS4003", mark, language_model)


def test_a_language_model_in_pickles_only(language_model, tmp_path, mark):
    (language_model / "model.safetensors").unlink()
    archived(language_model / "pytorch_model.bin", mark)
    done = text_check(language_model, tmp_path)
    refused(done, "LS4013", mark, language_model)
    assert f'lora-scripts convert "{language_model}"' in done.err


@pytest.mark.parametrize("shard", ["weights.bin", "../weights.safetensors", "/etc/weights.safetensors", 7])
def test_an_index_cannot_have_another_file_opened(shard, language_model, tmp_path, mark):
    """Transformers opens whatever the index names, a pickle by torch's reader."""
    archived(language_model / "weights.bin", mark)
    (language_model / "model.safetensors").rename(language_model / "model-00001-of-00001.safetensors")
    index = {"metadata": {}, "weight_map": {"model.embed_tokens.weight": shard}}
    (language_model / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    refused(text_check(language_model, tmp_path), "LS4477", mark, language_model)


@pytest.fixture
def bare(tmp_path) -> Path:
    draw_pictures(tmp_path / "bare", 2)
    return tmp_path / "bare"


def test_a_captioner_that_poses_or_is_a_pickle(desk, bare, tmp_path, mark):
    from tests.labeling.captioners.tiny_models import blip

    folder = blip(tmp_path / "blip")
    words = ("label", "--input", bare, "--output", tmp_path / "m.csv", "--captioner", "blip")
    archived(folder / "model.safetensors", mark)
    refused(desk.cli(*words, "--model", folder), "LS4003", mark, folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    done = desk.cli(*words, "--model", folder)
    refused(done, "LS4013", mark, folder)
    assert f'lora-scripts convert "{folder}"' in done.err


def test_a_tagger_that_is_a_pickle(desk, bare, tmp_path, mark):
    pytest.importorskip("onnxruntime")
    folder = tmp_path / "tagger"
    folder.mkdir()
    archived(folder / "model.onnx", mark)
    (folder / "selected_tags.csv").write_text("tag_id,name,category,count\n1,x,0,1\n", encoding="utf-8")
    words = ("label", "--input", bare, "--output", tmp_path / "m.csv", "--captioner", "wd14")
    done = desk.cli(*words, "--model", folder)
    assert "LS3164" in done.err, done.text
    assert not mark.exists()


def test_a_text_adapter_that_poses_or_is_a_pickle(tmp_path, mark):
    folder = tmp_path / "voice"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4}), encoding="utf-8")
    pickled = archived(folder / "adapter_model.bin", mark)
    done = command("export", "--lora", folder, "--output", tmp_path / "v.gguf", cwd=tmp_path)
    refused(done, "LS4002", mark, pickled)
    pickled.rename(folder / "adapter_model.safetensors")
    done = command("export", "--lora", folder, "--output", tmp_path / "v.gguf", cwd=tmp_path)
    refused(done, "LS4003", mark, folder)
