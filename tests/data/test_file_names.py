"""Names that do not survive a copy, and folders that cannot be looked into."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from lora_scripts.core.problems import errors
from lora_scripts.data.file_names import LONGEST, is_foreign_to_windows, is_too_long
from lora_scripts.data.manifest import read_pictures


@pytest.mark.parametrize(
    "name",
    ["con.png", "CON.png", "sub/aux.jpg", "nul.tar.png", "COM1.png", "lpt9.webp", "a./b.png", "a /b.png",
     "b?.png", "a:b.png", 'a"b.png', "a|b.png", "a\\b.png", "con /x.png"],
)  # fmt: skip
def test_names_that_windows_cannot_hold(name: str) -> None:
    assert is_foreign_to_windows(name)


@pytest.mark.parametrize(
    "name",
    ["a.png", "console.png", "com10.png", "com.png", "猫.png", "🎉.png", "a.b.png", "sub/é.png", ".x.png"],
)
def test_names_that_it_can(name: str) -> None:
    assert not is_foreign_to_windows(name)


def test_long_paths_count_as_a_whole(tmp_path: Path) -> None:
    room = LONGEST - len(str(tmp_path)) - 1
    assert not is_too_long(str(tmp_path), "a" * room)
    assert is_too_long(str(tmp_path), "a" * (room + 1))


@pytest.mark.skipif(os.name == "nt", reason="such names cannot be made there")
def test_they_are_named_and_used(tmp_path: Path) -> None:
    deep = Path(*["d" * 50] * 5)
    for name in ("con.png", str(deep / "a.png"), "ok.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16)).save(path)
        path.with_suffix(".txt").write_text("x", encoding="utf-8")
    manifest = read_pictures(tmp_path)
    said = {problem.code: problem.params["names"] for problem in manifest.problems}
    assert said["LS2405"] == "con.png"
    assert said["LS2406"].startswith("ddd")
    assert len(manifest.examples) == 3
    assert errors(manifest.problems) == []


def test_emoji_and_both_unicode_forms_are_names_like_any(tmp_path: Path) -> None:
    names = ["🎉.png", unicodedata.normalize("NFD", "é.png"), "猫 (1).png"]
    for name in names:
        Image.new("RGB", (16, 16)).save(tmp_path / name)
        (tmp_path / name).with_suffix(".txt").write_text("x", encoding="utf-8")
    manifest = read_pictures(tmp_path)
    assert sorted(e.fields["name"] for e in manifest.examples) == sorted(["🎉.png", "é.png", "猫 (1).png"])
    assert manifest.problems == []


@pytest.mark.skipif(not hasattr(os, "symlink") or os.name == "nt", reason="no symbolic links")
def test_a_loop_of_links_ends(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("x", encoding="utf-8")
    (tmp_path / "again").symlink_to(tmp_path, target_is_directory=True)
    assert [e.fields["name"] for e in read_pictures(tmp_path).examples] == ["a.png"]


def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a user without rights: the superuser of a test may read everything."""
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("x", encoding="utf-8")
    (tmp_path / "secret").mkdir()
    scan = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("secret"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    (problem,) = read_pictures(tmp_path).problems
    assert problem.code == "LS2407"
    assert "secret" in problem.params["names"]
    assert [p.code for p in errors(read_pictures(tmp_path, strict=True).problems)] == ["LS2407"]
