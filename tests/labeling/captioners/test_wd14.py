"""ONNX taggers: what they are fed, which tags come of their scores, what is refused. The networks are built
here; how well real ones tag was not judged."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from PIL import Image

from lora_scripts.core.catalogue import exit_code
from lora_scripts.core.problems import Problem, ProblemsError
from lora_scripts.labeling._captioner import Asked, Tag
from lora_scripts.labeling.captioners import wd14
from lora_scripts.labeling.captioners._tags import spelled
from tests.labeling.captioners.tiny_taggers import ROWS, write_tagger

pytest.importorskip("onnxruntime", reason="the extra `label` is not installed")
pytest.importorskip("onnx", reason="the taggers are built with it")
FACES = "0_0 (o)_(o) +_+ +_- ._. <o>_<o> <|>_<|> =_= >_< 3_3 6_9 >_o @_@ ^_^ o_o u_u x_x |_| ||_||"
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def plain(colour: tuple[int, int, int], size: tuple[int, int] = (8, 8)) -> Image.Image:
    return Image.new("RGB", size, colour)


def tags(folder: Any, picture: Image.Image, **asked: Any) -> dict[str, float]:
    (words,) = wd14.load(Asked(model=str(folder), **asked)).describe([picture])
    assert words.text == ""
    return {tag.name: round(tag.score, 3) for tag in words.tags}


def refused(folder: Any, **asked: Any) -> Problem:
    with pytest.raises(ProblemsError) as caught:
        wd14.load(Asked(model=str(folder), **asked))
    assert exit_code(caught.value.problems) == 4
    return caught.value.problems[0]


@pytest.mark.parametrize("planes", [False, True])
def test_pictures_are_fed_in_bgr_from_0_to_255(tmp_path, planes):
    folder = write_tagger(tmp_path, planes=planes)
    assert tags(folder, plain(BLUE)) == {"blue sky": 1.0, "^_^": 0.5}
    assert tags(folder, plain((51, 204, 0))) == {"green grass": 0.8, "^_^": 0.5}


@pytest.mark.parametrize(
    ("name", "told", "red"),
    [
        ("config.json", {"pretrained_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.5, 0.5]}}, "red dress"),
        (
            "preprocessor_config.json",
            {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.5, 0.5]},
            "blue sky",
        ),
        (
            "preprocess.json",
            {
                "stages": [
                    {"type": "resize"},
                    {"type": "normalize", "mean": [0.5] * 3, "std": [0.25, 0.5, 0.5]},
                ]
            },
            "blue sky",
        ),
    ],
)
def test_planes_follow_the_settings_beside_them(tmp_path, name, told, red):
    """Red is (1 - 0.5) / 0.25 = 2; the network halves it. A tag's name says which place of three it read."""
    folder = write_tagger(tmp_path, planes=True, scale=2.0)
    (folder / name).write_text(json.dumps(told), encoding="utf-8")
    found = tags(folder, plain(RED), threshold=0.9, character_threshold=2.0)
    assert set(found) == {red}


def test_colours_at_the_end_are_never_normalised(tmp_path):
    folder = write_tagger(tmp_path)
    told = {"pretrained_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}}
    (folder / "config.json").write_text(json.dumps(told), encoding="utf-8")
    assert tags(folder, plain(RED), threshold=0.9) == {"red dress": 1.0, "hatsune miku": 1.0}


def test_a_picture_lies_in_the_middle_of_a_white_square(tmp_path):
    wide = plain(RED, (16, 8))
    inside, above = write_tagger(tmp_path / "in", at=(4, 4)), write_tagger(tmp_path / "out", at=(0, 4))
    assert tags(inside, wide, threshold=0.9, character_threshold=2.0) == {"red dress": 1.0}
    white = tags(above, wide, threshold=0.9, character_threshold=3.0)
    assert set(white) == {"blue sky", "green grass", "red dress"}


def test_each_kind_has_its_threshold_and_order(tmp_path):
    folder = write_tagger(tmp_path)
    (words,) = wd14.load(Asked(model=str(folder), rating=True)).describe([plain((230, 0, 100))])
    assert [(tag.name, tag.kind) for tag in words.tags] == [
        ("hatsune miku", "character"),
        ("red dress", "general"),
        ("^_^", "general"),
        ("blue sky", "general"),
        ("explicit", "rating"),
    ]
    assert words.tags[0] == Tag("hatsune miku", pytest.approx(230 / 255), "character")
    without = tags(folder, plain((230, 0, 100)), character_threshold=0.95, threshold=0.5)
    assert without == {"red dress": 0.902, "^_^": 0.5}


def test_underscores(tmp_path):
    folder = write_tagger(tmp_path)
    assert set(tags(folder, plain(RED), keep_underscores=True)) == {"red_dress", "hatsune_miku", "^_^"}
    faces = FACES.split()
    assert [spelled(face, keep_underscores=False) for face in faces] == faces
    names = {
        "long_hair": "long hair",
        "saber_(fate)": "saber (fate)",
        "v-shaped_eyebrows": "v-shaped eyebrows",
        "1girl": "1girl",
        "k-on!_(series)": "k-on! (series)",
        "x_of_y": "x of y",
    }
    assert {name: spelled(name, keep_underscores=False) for name in names} == names


def test_a_batch_says_what_single_pictures_say(tmp_path):
    pictures = [plain(RED), plain(GREEN, (20, 5)), plain((90, 130, 250), (3, 9))]
    for number, batch in enumerate((None, 1, 2)):
        tagger = wd14.load(Asked(model=str(write_tagger(tmp_path / str(number), batch=batch)), batch_size=3))
        assert tagger.batch_size == (batch or 3)
        together = tagger.describe(pictures)
        assert together == [tagger.describe([picture])[0] for picture in pictures]
        assert len({words.tags for words in together}) == 3
        tagger.close()


def test_raw_scores_become_probabilities(tmp_path):
    folder = write_tagger(tmp_path, raw=True)
    assert tags(folder, plain(BLUE), threshold=0.4, character_threshold=0.4) == {"blue sky": 1.0, "^_^": 0.5}


def test_a_table_with_categories_by_name(tmp_path):
    rows = [("rating_safe", "rating", (0, 0, 0), 0.9), ("vocaloid", "copyright", (0, 0, 0), 0.9), *ROWS[2:]]
    (words,) = wd14.load(Asked(model=str(write_tagger(tmp_path, rows)))).describe([plain(BLUE)])
    assert [(tag.name, tag.kind) for tag in words.tags] == [
        ("vocaloid", "character"),
        ("blue sky", "general"),
        ("^_^", "general"),
    ]


def test_a_file_is_as_good_as_its_folder(tmp_path):
    folder = write_tagger(tmp_path)
    (folder / "model.onnx").rename(folder / "mine.onnx")
    assert "blue sky" in tags(folder / "mine.onnx", plain(BLUE))
    assert refused(folder).code == "LS3162"


def test_what_is_no_tagger_is_refused_with_its_reason(tmp_path):
    folder = write_tagger(tmp_path / "a")
    table = folder / "selected_tags.csv"
    rows = table.read_text(encoding="utf-8").splitlines()
    table.write_text("\n".join([*rows[:3], "7,only_a_name", *rows[3:]]), encoding="utf-8")
    problem = refused(folder)
    assert (problem.code, problem.where.line) == ("LS3163", 4)
    table.write_text("\n".join(rows[:-1]), encoding="utf-8")
    problem = refused(folder)
    assert (problem.code, problem.params["names"], problem.params["scores"]) == ("LS3165", 6, "7")
    table.unlink()
    assert refused(folder).params["name"] == "selected_tags.csv"
    assert refused(write_tagger(tmp_path / "b", header="id,tag")).code == "LS3163"
    folder = write_tagger(tmp_path / "c")
    (folder / "model.onnx").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert refused(folder).code == "LS3164"
    assert refused(tmp_path / "nowhere").code == "LS3151"
    assert refused(write_tagger(tmp_path / "d"), device="cuda").code == "LS3166"


def test_without_onnxruntime_the_command_that_installs_it_is_said(tmp_path, monkeypatch):
    folder = write_tagger(tmp_path)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    problem = refused(folder)
    assert problem.code == "LS3152"
    assert "pip install onnxruntime" in problem.params["command"]
