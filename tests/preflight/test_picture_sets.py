"""Several data sets, repeats, sizes and masks become samples and a plan that adds up."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lora_scripts.config.schema import RunConfig
from lora_scripts.core.catalogue import use_language
from lora_scripts.core.problems import errors
from lora_scripts.preflight.checks.dataset import DatasetReport, check_pictures
from lora_scripts.preflight.checks.picture_sets import picture_sets


@pytest.fixture(autouse=True)
def _english() -> Any:
    use_language("en")
    yield
    use_language(None)


def fill(folder: Path, count: int, mode: str = "RGB", colour: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        image = Image.new(mode, (64, 64), (number, colour, 7, 255)[: len(mode)])
        if mode == "RGBA":
            image.putpixel((0, 0), (0, 0, 0, 0))
        image.save(folder / f"{number:02}.png")
        (folder / f"{number:02}.txt").write_text(f"a, b, {number}", encoding="utf-8")
    return folder


def config(folder: Path, **keys: Any) -> RunConfig:
    settings = {"train_data_dir": str(folder), "base_model": "builtin:demo", "output_dir": "out", **keys}
    return RunConfig.model_validate(settings)


def report_of(settings: RunConfig) -> tuple[DatasetReport, list[str]]:
    report, problems = check_pictures(settings, 64, 8)
    assert errors(problems) == []
    return report, [problem.code for problem in problems]


def test_repeats_multiply_an_epoch_and_nothing_else(tmp_path: Path) -> None:
    folder = fill(tmp_path / "a", 25)
    once, _ = report_of(config(folder))
    thrice, _ = report_of(config(folder, repeats=3))
    assert len(thrice.train) == 3 * len(once.train)
    assert [*thrice.validation] == [*once.validation]
    assert thrice.plan is not None
    assert Counter(s.name for s in thrice.train) == Counter({s.name: 3 for s in once.train})
    assert len({s.key for s in thrice.train}) == len(thrice.train)
    assert {s.key for s in once.train} == {s.picture.sha256 for s in once.train}
    shown = "\n".join(thrice.lines())
    assert "Trained on: 23, with repeats 69 in each epoch." in shown
    assert "69 pictures / (4 batch_size" in shown
    assert "each once per epoch" in "\n".join(once.lines())


def test_sets_have_rules_of_their_own_and_inherit_the_rest(tmp_path: Path) -> None:
    first, second = fill(tmp_path / "one" / "x", 2), fill(tmp_path / "two" / "x", 2, colour=9)
    entries = [
        {"path": str(first), "trigger_word": "sks", "repeats": 2, "keep_tokens": 1},
        {"path": str(second), "caption_prefix": "", "shuffle_caption": False},
    ]
    keys = {"datasets": entries, "trigger_word": "all", "caption_prefix": "photo of", "shuffle_caption": True}
    report, _ = report_of(config(first, **keys))
    captions = {sample.name: sample.caption for sample in report.train}
    assert captions == {
        "x/00.png": "sks, photo of a, b, 0",
        "x/01.png": "sks, photo of a, b, 1",
        "x~2/00.png": "all, a, b, 0",
        "x~2/01.png": "all, a, b, 1",
    }
    assert Counter(sample.name for sample in report.train)["x/00.png"] == 2
    one, two = (each.handling.wording for each in picture_sets(config(first, **keys)))
    assert (one.shuffle, one.keep, two.shuffle, two.keep) == (True, 1, False, 0)


def test_the_folder_at_the_top_is_a_set_too_unless_it_is_listed(tmp_path: Path) -> None:
    home, other = fill(tmp_path / "home", 3), fill(tmp_path / "other", 2, colour=5)
    both = config(home, datasets=[{"path": str(other)}])
    assert [each.folder for each in picture_sets(both)] == [home, other]
    listed = config(home, datasets=[{"path": str(other)}, {"path": str(home) + "/"}])
    assert [each.folder for each in picture_sets(listed)] == [other, home]
    assert [each.handling.part for each in picture_sets(config(home))] == [""]


def test_regularization_pictures_weigh_less_and_are_never_held_out(tmp_path: Path) -> None:
    home, kept = fill(tmp_path / "home", 25), fill(tmp_path / "kept", 30, colour=5)
    entries = [{"path": str(kept), "regularization": True}]
    report, _ = report_of(
        config(home, datasets=entries, prior_loss_weight=0.3, trigger_word="sks", caption_suffix="x")
    )
    weights = Counter(sample.handling.weight for sample in report.train)
    assert weights == {1.0: 25 - len(report.validation), 0.3: 30}
    assert all(sample.name.startswith("home/") for sample in report.validation)
    assert report.regularization == 30
    captions = {sample.caption for sample in report.train if sample.handling.regularization}
    assert captions == {f"a, b, {n}" for n in range(30)}, "the words at the top are for what is taught"


def test_each_size_has_each_picture_once(tmp_path: Path) -> None:
    report, _ = report_of(config(fill(tmp_path / "a", 25), resolution=[64, 32, 64]))
    assert Counter(sample.placement.bucket.width for sample in report.train) == {64: 23, 32: 23}
    assert {sample.name for sample in report.train}.isdisjoint(sample.name for sample in report.validation)
    assert len({sample.key for sample in report.train}) == 46
    assert len(report.validation) == 4
    assert "Sizes: 64, 32 pixels" in "\n".join(report.lines())
    assert len(report.fingerprint()["train"]) == 23


def test_kohya_s_numbers_win_over_repeats(tmp_path: Path) -> None:
    fill(tmp_path / "k" / "5_dog", 2)
    fill(tmp_path / "k" / "1_cat", 2, colour=3)
    report, _ = report_of(config(tmp_path / "k", repeats=9))
    assert sorted(Counter(s.name for s in report.train).values()) == [1, 1, 5, 5]


def test_masks_reach_samples_and_their_folder_is_no_data(tmp_path: Path) -> None:
    folder = fill(tmp_path / "a", 3, "RGBA")
    report, codes = report_of(config(folder, loss_mask="alpha"))
    assert all(sample.mask for sample in report.train)
    assert "LS2423" not in codes
    masks = folder / "masks"
    masks.mkdir()
    Image.new("L", (64, 64), 90).save(masks / "00.png")
    report, codes = report_of(config(folder, loss_mask=str(masks)))
    assert len(report.train) == 3
    assert [bool(sample.mask) for sample in report.train] == [True, False, False]
    assert "LS2421" in codes
    assert "LS2423" in report_of(config(fill(tmp_path / "b", 3), loss_mask="alpha"))[1]


def test_what_random_crop_costs_is_said(tmp_path: Path) -> None:
    assert "LS2412" in report_of(config(fill(tmp_path / "a", 3), random_crop=True))[1]


def test_nothing_new_is_said_or_kept_without_the_new_keys(tmp_path: Path) -> None:
    report, codes = report_of(config(fill(tmp_path / "a", 25)))
    assert codes == []
    entries = list(report.fingerprint()["train"].values())
    assert all(set(each) == {"sha256", "caption"} for each in entries)
    assert [line for line in report.lines() if "Sizes" in line or "mask" in line or "versions" in line] == []


def test_a_set_inside_another_is_said_with_both_places(tmp_path: Path) -> None:
    outer, inner = fill(tmp_path / "all", 3), fill(tmp_path / "all" / "faces", 2, colour=9)
    apart = fill(tmp_path / "hands", 2, colour=20)
    entries = [{"path": str(inner)}, {"path": str(apart)}]
    _, problems = check_pictures(config(outer, datasets=entries, validation={"split": 0}), 64, 8)
    told = [problem for problem in problems if problem.code == "LS2490"]
    assert [(each.params["first"], each.params["second"], each.params["count"]) for each in told] == [
        (str(outer), str(inner), 2)
    ]
    assert told[0].severity == "warning"
    _, problems = check_pictures(config(inner, datasets=[{"path": str(apart)}]), 64, 8)
    assert "LS2490" not in [problem.code for problem in problems]


def test_a_set_named_twice_through_a_link_is_said_and_one_outside_the_table_is_not(tmp_path: Path) -> None:
    outer = fill(tmp_path / "all", 3)
    link = tmp_path / "link"
    link.symlink_to(outer, target_is_directory=True)
    _, problems = check_pictures(config(outer, datasets=[{"path": str(link)}]), 64, 8)
    assert [each.params["count"] for each in problems if each.code == "LS2490"] == [3]
    inner = fill(outer / "faces", 2, colour=9)
    (outer / "metadata.csv").write_text("file_name,text\n00.png,a\n", encoding="utf-8")
    _, problems = check_pictures(config(outer, datasets=[{"path": str(inner)}], strict=False), 64, 8)
    assert "LS2490" not in [problem.code for problem in problems]
