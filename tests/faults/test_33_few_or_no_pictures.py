"""Row 33: no picture, none that can be used, one."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from lora_scripts.cli import main
from lora_scripts.core.catalogue import entry


@pytest.fixture
def desk(tmp_path: Path):
    folder = tmp_path / "pics"
    folder.mkdir()

    def check(capsys, *words: str) -> tuple[int, str]:
        config = tmp_path / "c.yaml"
        text = f"train_data_dir: {folder}\nbase_model: builtin:demo\noutput_dir: {tmp_path / 'out'}\n"
        config.write_text(text, encoding="utf-8")
        code = main.run(["check", "--config", str(config), *words])
        shown = capsys.readouterr()
        return code, shown.out + shown.err

    return folder, check


def put(folder: Path, name: str, data: bytes | None = None) -> None:
    if data is None:
        Image.new("RGB", (256, 256), (9, 9, len(name))).save(folder / name)
    else:
        (folder / name).write_bytes(data)
    (folder / name).with_suffix(".txt").write_text(f"a picture called {name}", encoding="utf-8")


def test_33_no_picture_is_a_plain_error(desk, capsys) -> None:
    folder, check = desk
    code, said = check(capsys)
    assert code == 3
    assert "LS2021" in said
    assert str(folder) in said


def test_33_a_folder_that_is_not_there_is_a_plain_error(desk, capsys) -> None:
    folder, check = desk
    folder.rmdir()
    code, said = check(capsys)
    assert code != 0
    assert str(folder) in said
    assert "→" in said


@pytest.mark.parametrize("words", [(), ("--set", "on_bad_image=skip")], ids=["stop", "skip"])
def test_33_none_that_can_be_used_is_an_error_even_where_bad_ones_are_skipped(desk, capsys, words) -> None:
    folder, check = desk
    for name in ("a.png", "b.jpg"):
        put(folder, name, b"<html>")
    code, said = check(capsys, *words)
    assert code == 3
    assert "LS2060" in said
    assert "a.png" in said


def test_33_only_animations_skipped_is_an_error(desk, capsys) -> None:
    folder, check = desk
    frames = [Image.new("RGB", (64, 64), name) for name in ("red", "blue")]
    frames[0].save(folder / "a.gif", save_all=True, append_images=frames[1:])
    (folder / "a.txt").write_text("x", encoding="utf-8")
    code, said = check(capsys, "--set", "on_animation=skip")
    assert code == 3
    assert "LS2060" in said


def test_33_one_picture_works_with_a_warning(desk, capsys) -> None:
    folder, check = desk
    put(folder, "a.png")
    code, said = check(capsys)
    assert code == 0
    assert "LS2070" in said
    assert entry("LS2070", "en")["fix"].split("{")[0][:20] in said
    assert "Trained on: 1" in said
