"""M3: ``tools/auto_label.py`` captions a folder, the user mends rows by hand, and training takes them."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from tests.contract.conftest import ROOT, command, draw_pictures, process
from tests.labeling.captioners.tiny_models import blip as save_blip

DOOR = ROOT / "tools" / "auto_label.py"


@pytest.fixture(scope="module")
def blip(tmp_path_factory) -> Path:
    """A BLIP of the real classes with random weights: what it says is noise, all else is real."""
    return save_blip(tmp_path_factory.mktemp("models") / "blip")


def rows(path: Path) -> dict[str, str]:
    with open(path, newline="", encoding="utf-8") as handle:
        found = list(csv.reader(handle))
    assert found[0] == ["file_name", "text"]
    return dict(found[1:])


def label(*words: object, cwd: Path):
    return command("label", "--no-check", *words, cwd=cwd)


@pytest.mark.long
def test_m03_the_first_of_the_three_steps_as_typed(make_desk, blip):
    desk = make_desk()
    data = desk.root / "data" / "cyberpunk_cities"
    draw_pictures(data, 12)
    typed = ("--input", "data/cyberpunk_cities", "--output", "data/cyberpunk_cities/metadata.csv")
    done = process(DOOR, *typed, "--model", blip, cwd=desk.root)
    assert done.code == 0, done.text
    captions = rows(data / "metadata.csv")
    assert list(captions) == [f"img{number:02d}.png" for number in range(12)]
    text = (data / "metadata.csv").read_text(encoding="utf-8")
    assert re.search(r'^img00\.png,".*"$', text, re.MULTILINE)
    assert (desk.root / "output/dataset-check/cyberpunk_cities/report.html").is_file()


def test_m03_without_a_model_the_command_says_what_to_do_and_makes_nothing_up(make_desk):
    desk = make_desk()
    draw_pictures(desk.root / "data", 3)
    done = process(
        DOOR, "--input", "data", "--output", "metadata.csv", cwd=desk.root, HF_HOME=str(desk.root / "none")
    )
    assert done.code == 4, done.text
    assert "--captioner template" in done.err
    assert "builtin:demo" in done.err
    assert not (desk.root / "metadata.csv").exists()


@pytest.mark.long
def test_m03_captions_edited_by_hand_train(make_desk, blip):
    desk = make_desk()
    draw_pictures(desk.root / "bare", 22)
    typed = ("--input", "bare", "--output", "metadata.csv", "--model", blip, "--trigger", "sks")
    assert label(*typed, cwd=desk.root).code == 0
    path = desk.root / "metadata.csv"
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[5] = 'img04.png,"sks, a red house, mended by hand"'
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    again = label(*typed, "--overwrite", cwd=desk.root)
    assert again.code == 0, again.text
    assert rows(path)["img04.png"] == "sks, a red house, mended by hand"
    config = desk.config(train_data_dir="./bare", metadata_path="./metadata.csv", max_steps=2)
    done = desk.train(config)
    assert done.code == 0, done.text
    assert (desk.root / "output/my_style/my_style.safetensors").is_file()


def test_m03_a_fixed_prefix_and_a_trigger_word(make_desk, blip):
    desk = make_desk()
    draw_pictures(desk.root / "data", 3)
    done = label(
        *("--input", "data", "--model", blip, "--trigger", "NAME"),
        *("--template", "portrait of {trigger}, in the style of ink, {caption}"),
        cwd=desk.root,
    )
    assert done.code == 0, done.text
    captions = rows(desk.root / "data" / "metadata.csv").values()
    assert all(caption.startswith("portrait of NAME, in the style of ink") for caption in captions)


@pytest.mark.long
def test_m03_broken_pictures_are_named_and_the_rest_trains(make_desk, blip):
    desk = make_desk()
    data = desk.root / "mixed"
    good = {name for name, _ in draw_pictures(data, 20)}
    whole = (data / "img00.png").read_bytes()
    broken = {
        "page.jpg": b"<!DOCTYPE html><html>",
        "empty.png": b"",
        "cut.png": whole[: len(whole) // 2],
        "words.webp": b"not a picture",
        "large.lfs.png": b"version https://git-lfs.github.com/spec/v1\n",
    }
    for name, content in broken.items():
        (data / name).write_bytes(content)
    done = label("--input", "mixed", "--model", blip, cwd=desk.root)
    assert done.code == 3
    assert set(rows(data / "metadata.csv")) == good
    summary = next(line for line in done.err.splitlines() if line.startswith("No caption for 5 of 25"))
    assert all(name in summary for name in broken)
    trained = desk.train(desk.config(train_data_dir="./mixed", max_steps=2))
    assert trained.code == 0, trained.text


@pytest.mark.long
def test_m03_a_fresh_machine_has_a_captioner_without_a_network(make_desk):
    desk = make_desk()
    draw_pictures(desk.root / "data", 4, sizes=((64, 64), (96, 64)))
    done = process(
        *(DOOR, "--input", "data", "--output", "metadata.csv", "--model", "builtin:demo", "--no-check"),
        cwd=desk.root,
        HF_HOME=str(desk.root / "none"),
    )
    assert done.code == 0, done.text
    captions = rows(desk.root / "metadata.csv")
    assert list(captions) == [f"img{number:02d}.png" for number in range(4)]
    assert all(len(caption.split()) > 3 for caption in captions.values())
