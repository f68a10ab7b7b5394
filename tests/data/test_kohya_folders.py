"""Folders called ``10_sks dog`` are learnt from as they lie."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest
from PIL import Image

from lora_scripts.core.problems import errors
from lora_scripts.data.kohya_folders import counted
from lora_scripts.data.manifest import Manifest, read_pictures


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def draw(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), "red").save(folder / name)


def read(manifest: Manifest) -> dict[str, tuple[int, str]]:
    return {e.fields["name"]: (e.fields["repeats"], e.fields["caption"]) for e in manifest.examples}


def codes(manifest: Manifest) -> list[str]:
    return [problem.code for problem in manifest.problems]


@pytest.mark.parametrize(
    ("name", "repeats", "words"),
    [
        ("10_sks dog", 10, "sks dog"),
        ("1_my_style", 1, "my_style"),
        ("007_猫", 7, "猫"),
        ("5_  a   b ", 5, "a b"),
        ("0_nothing", None, ""),
        ("10", None, ""),
        ("10_", None, ""),
        ("style", None, ""),
        ("2024_holiday", None, ""),
        ("x10_dog", None, ""),
        ("-1_dog", None, ""),
    ],
)
def test_what_a_name_says(name: str, repeats: int | None, words: str) -> None:
    found = counted(name)
    assert (found.repeats, found.words) == (repeats, words) if found else repeats is None


def test_repeats_words_and_files(folder: Path) -> None:
    draw(folder, "10_sks dog/a.png", "10_sks dog/b.png", "1_house/c.jpg", "1_house/deep/d.png")
    (folder / "10_sks dog" / "b.txt").write_text("sks dog on a sofa", encoding="utf-8")
    (folder / "1_house" / "c.caption").write_text("a red house", encoding="utf-8")
    manifest = read_pictures(folder)
    assert read(manifest) == {
        "10_sks dog/a.png": (10, "sks dog"),
        "10_sks dog/b.png": (10, "sks dog on a sofa"),
        "1_house/c.jpg": (1, "a red house"),
        "1_house/deep/d.png": (1, "house"),
    }
    assert codes(manifest) == ["LS2402"]


def test_what_lies_beside_them_is_passed_over_and_said(folder: Path) -> None:
    draw(folder, "10_dog/a.png", "loose.png", "other/b.png", "0_off/c.png")
    manifest = read_pictures(folder)
    assert list(read(manifest)) == ["10_dog/a.png"]
    said = {p.code: p.params["names"] for p in manifest.problems}
    assert said["LS2400"] == "loose.png"
    assert set(said["LS2401"].split(", ")) == {"other", "0_off"}
    assert errors(manifest.problems) == []


def test_a_table_comes_first(folder: Path) -> None:
    draw(folder, "10_dog/a.png")
    (folder / "metadata.csv").write_text('10_dog/a.png,"from the table"', encoding="utf-8")
    (example,) = read_pictures(folder).examples
    assert example.fields["caption"] == "from the table"
    assert "repeats" not in example.fields


def test_years_are_no_repeats(folder: Path) -> None:
    draw(folder, "2024_holiday/a.png")
    (folder / "2024_holiday" / "a.txt").write_text("a beach", encoding="utf-8")
    (example,) = read_pictures(folder).examples
    assert "repeats" not in example.fields


def test_captions_in_every_usual_encoding(folder: Path) -> None:
    text = "赛博朋克城市，霓虹灯"
    encodings = {
        "a": text.encode("gb18030"),
        "b": text.encode("utf-16"),
        "c": codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
        "d": text.encode("utf-8-sig"),
        "e": text.encode(),
        "f": text.encode("gbk"),
    }
    for name, data in encodings.items():
        draw(folder, f"3_city/{name}.png")
        (folder / "3_city" / f"{name}.txt").write_bytes(data)
    manifest = read_pictures(folder)
    assert {caption for _, caption in read(manifest).values()} == {text}
    (problem,) = manifest.problems
    assert (problem.code, problem.params["count"], problem.params["sample"]) == ("LS2403", 2, text)


def test_one_file_in_gbk_is_said_as_before(folder: Path) -> None:
    draw(folder, "3_city/a.png")
    (folder / "3_city" / "a.txt").write_bytes("赛博朋克城市".encode("gbk"))
    assert codes(read_pictures(folder)) == ["LS2011"]


def test_a_json_list_is_named_once_and_not_line_by_line(folder: Path) -> None:
    draw(folder, "a.png", "b.png")
    table = '[\n {"file_name": "a.png", "text": "x"},\n {"file_name": "b.png", "text": "y"}\n]\n'
    (folder / "metadata.jsonl").write_text(table, encoding="utf-8")
    assert [problem.code for problem in errors(read_pictures(folder).problems)] == ["LS2404"]
    (folder / "metadata.jsonl").write_text(
        '\ufeff{"file_name": "a.png", "text": "x"}\r\n\r\n{"image": "b.png", "caption": "y"}\r\n',
        encoding="utf-8",
    )
    manifest = read_pictures(folder)
    assert [e.fields["caption"] for e in manifest.examples] == ["x", "y"]
    assert manifest.problems == []
