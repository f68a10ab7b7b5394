"""``merge --no-proof``: the same bytes, without a model being loaded."""

from __future__ import annotations

import shutil

import pytest

from lora_scripts.toolbox import merge as text_merge
from lora_scripts.toolbox import picture_proof
from tests.contract.conftest import (  # noqa: F401 - fixtures
    command,
    tiny_base,
    tiny_chat_base,
    trained,
    trained_voice,
)


def refuse(*_args, **_keywords):
    raise AssertionError("a model was loaded")


def tree(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.long
@pytest.mark.parametrize("kind", [pytest.param("pictures", marks=pytest.mark.slow), "texts"])
def test_the_result_is_the_same_without_the_proof(kind, request, monkeypatch, tmp_path):
    desk = request.getfixturevalue("trained" if kind == "pictures" else "trained_voice")
    lora = "output/my_style/my_style.safetensors" if kind == "pictures" else "output/voice"
    words = ("merge", "--base", desk.base, "--lora", desk.root / lora, "--output")
    proven = command(*words, tmp_path / "proven", cwd=tmp_path)
    assert proven.code == 0, proven.text
    monkeypatch.setattr(text_merge, "load_base", refuse)
    monkeypatch.setattr(text_merge, "_proven", refuse)
    monkeypatch.setattr(picture_proof, "predicted", refuse)
    quick = command(*words, tmp_path / "quick", "--no-proof", cwd=tmp_path)
    assert quick.code == 0, quick.text
    assert "not proven" in quick.out
    assert "not proven" not in proven.out
    assert tree(tmp_path / "quick") == tree(tmp_path / "proven")
    shutil.rmtree(tmp_path / "quick")
    assert command(*words, tmp_path / "quick", cwd=tmp_path).code != 0, "with the proof a model is loaded"
