"""A whole folder: what is planted is found and said with its remedy; a clean one is left in peace."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from PIL import Image

from lora_scripts.config.schema import RunConfig
from lora_scripts.core.catalogue import use_language
from lora_scripts.core.problems import ProblemsError, errors
from lora_scripts.data.wording import Wording
from lora_scripts.doctor import Settings, examine, page
from lora_scripts.doctor.as_json import report_json
from lora_scripts.preflight.checks.dataset import check_pictures
from tests.doctor.pictures import blurred, drawn, photo, save

ROOT = Path(__file__).resolve().parents[2]
SIZE = Settings(resolution=256)


def kinds(report):
    return {
        finding.kind: [[item.name for item in group] for group in finding.groups]
        for finding in report.findings
    }


def one(report, kind):
    return next(finding for finding in report.findings if finding.kind == kind)


pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    pictures = {f"p{seed}.png": photo(seed) for seed in range(6)} | {
        f"d{seed}.png": drawn(seed) for seed in range(6)
    }
    return save(tmp_path_factory.mktemp("clean") / "data", pictures, {})


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    pictures = {f"p{seed}.png": photo(seed) for seed in range(10)}
    pictures |= {
        "p0 copy.jpg": photo(0).resize((220, 176)),
        "soft.png": blurred(photo(20), 0.02),
        "tiny.png": photo(21, 90, 80),
        "wide.png": photo(22, 900, 100),
        "lost.jpg": photo(23),
    }
    captions = {
        "p1.png": "",
        "p2.png": "sks, " + ", ".join(f"word number {n}" for n in range(40)),
        "p3.png": "no trigger here",
    }
    folder = save(tmp_path_factory.mktemp("planted") / "data", pictures, captions)
    whole = (folder / "lost.jpg").read_bytes()
    (folder / "lost.jpg").write_bytes(whole[: len(whole) // 2])
    exif = Image.Exif()
    exif[0x0112] = 6
    photo(24).save(folder / "bare.jpg", exif=exif)
    return folder


def test_a_clean_folder_is_left_in_peace(clean):
    report = examine(clean, settings=SIZE)
    assert report.findings == ()
    assert (report.named, report.usable, report.captioned) == (12, 12, 12)
    assert not report.stops


@pytest.mark.parametrize("crops", [False, True])
def test_the_demo_pictures_are_left_in_peace(crops):
    report = examine(ROOT / "data" / "cyberpunk", settings=Settings(resolution=128, step=8, crops=crops))
    assert report.findings == ()


def test_everything_planted_is_found(planted):
    report = examine(planted, settings=Settings(resolution=256, trigger="sks"))
    assert kinds(report) == {
        "unreadable": [["lost.jpg"]],
        "uncaptioned": [["bare.jpg"]],
        "turned": [["bare.jpg"]],
        "tiny": [["tiny.png"]],
        "blurred": [["soft.png"]],
        "aspect": [["wide.png"]],
        "duplicates": [["p0.png", "p0 copy.jpg"]],
        "empty": [["p1.png"]],
        "long": [["p2.png"]],
        "trigger": [["p3.png"]],
    }
    assert report.stops
    assert one(report, "unreadable").groups[0][0].problem.code == "LS2054"
    assert one(report, "long").groups[0][0].facts["tokens"] > 75
    assert "number 20" in one(report, "long").groups[0][0].facts["lost"]
    turned = one(report, "turned").groups[0][0]
    assert (turned.width, turned.height) == (256, 320)


def test_a_broken_file_that_nothing_names_stops_nothing(clean, tmp_path):
    folder = save(tmp_path / "data", {"a.png": photo(1), "b.png": photo(2)}, {})
    (folder / "broken.png").write_bytes(b"")
    report = examine(folder, settings=SIZE)
    assert one(report, "unreadable").severity == "warning"
    assert not report.stops


def test_a_run_would_stop_exactly_where_the_report_says_so(planted, clean):
    for folder in (planted, clean):
        config = RunConfig(train_data_dir=str(folder), base_model="x", output_dir="/nowhere", resolution=256)
        _, problems = check_pictures(config, 256, 64)
        assert bool(errors(problems)) == examine(folder, settings=SIZE).stops


def test_the_bucket_plan_is_that_of_a_run(clean):
    config = RunConfig(
        train_data_dir=str(clean),
        base_model="x",
        output_dir="/nowhere",
        resolution=256,
        batch_size=3,
        validation={"split": 0},
    )
    told, _ = check_pictures(config, 256, 64)
    report = examine(clean, settings=Settings(resolution=256, batch_size=3))
    assert {f"{each.width}x{each.height}": each.pictures for each in report.buckets} == told.buckets
    assert report.windows == told.plan.windows_per_epoch


def test_pictures_without_any_caption_are_looked_at_all_the_same(tmp_path):
    folder = save(tmp_path / "data", {"a.png": photo(1), "b.png": photo(2), "c.png": photo(1)})
    report = examine(folder, settings=SIZE)
    assert kinds(report) == {
        "uncaptioned": [["a.png"], ["b.png"], ["c.png"]],
        "duplicates": [["a.png", "c.png"]],
    }
    assert report.stops  # there is nothing to learn from
    assert report.buckets


def test_words_of_kohya_folders_are_no_fault(tmp_path):
    save(tmp_path / "data" / "10_sks dog", {f"{n}.png": photo(n) for n in range(6)})
    report = examine(tmp_path / "data", settings=SIZE)
    assert report.alarms == ()
    assert sum(each.pictures for each in report.buckets) == 60


def test_one_caption_for_all_is_said(tmp_path):
    names = [f"{n}.png" for n in range(6)]
    folder = save(
        tmp_path / "data", {name: photo(n) for n, name in enumerate(names)}, dict.fromkeys(names, "a thing")
    )
    assert list(kinds(examine(folder, settings=SIZE))) == ["alike"]


def test_the_trigger_word_of_a_configuration_is_counted_and_no_fault(clean):
    report = examine(clean, settings=Settings(resolution=256, wording=Wording(trigger="neon")))
    assert report.findings == ()
    assert report.with_trigger == 0


def test_a_set_that_is_small_by_nature_is_a_note(tmp_path):
    folder = save(tmp_path / "data", {f"{n}.png": photo(n, 160, 128) for n in range(5)}, {})
    report = examine(folder)
    assert report.alarms == ()
    assert one(report, "tiny").problem.params["side"] == 128


def test_a_folder_that_is_not_there_is_an_error_of_the_data(tmp_path):
    report = examine(tmp_path / "none")
    assert [item.problem.code for (item,) in one(report, "reader").groups] == ["LS2020"]


def test_nothing_in_the_data_folder_changes(planted, tmp_path):
    def state():
        return {
            str(path): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
            for path in sorted(planted.rglob("*"))
        }

    before = state()
    page.write(examine(planted, settings=SIZE), tmp_path / "report")
    assert state() == before
    with pytest.raises(ProblemsError) as refused:
        page.write(examine(planted, settings=SIZE), planted / "report")
    assert refused.value.problems[0].code == "LS3216"
    assert state() == before


def test_progress_is_told_and_may_stop_the_work(clean):
    told = []
    examine(clean, settings=SIZE, progress=lambda *at: told.append(at))
    assert ("pictures", 12, 12) in told
    assert ("alike", 12, 12) in told

    def stop(*at):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        examine(clean, settings=SIZE, progress=stop)


def test_the_json_is_versioned_and_whole(planted):
    told = json.loads(
        json.dumps(report_json(examine(planted, settings=Settings(resolution=256, trigger="sks"))))
    )
    assert (told["format"], told["version"]) == ("lora-scripts-dataset-check", 1)
    assert told["stops_training"] is True
    blurred_one = next(finding for finding in told["findings"] if finding["kind"] == "blurred")
    assert blurred_one["groups"] == [
        [
            {
                "name": "soft.png",
                "path": str(planted / "soft.png"),
                "width": 320,
                "height": 256,
                "softness": blurred_one["groups"][0][0]["softness"],
            }
        ]
    ]
    assert all(finding["fix"] for finding in told["findings"])
    use_language("zh")
    assert report_json(examine(planted, settings=SIZE))["language"] == "zh"


def test_tags_and_words_are_counted(tmp_path):
    names = [f"{n}.png" for n in range(3)]
    tags = dict(zip(names, ["Cat, red sofa", "cat, cat, garden", "dog, garden"], strict=True))
    folder = save(tmp_path / "data", {name: photo(n) for n, name in enumerate(names)}, tags)
    report = examine(folder, settings=SIZE)
    assert report.as_tags
    assert dict(report.words) == {"cat": 2, "garden": 2, "dog": 1, "red sofa": 1}
    sentences = dict.fromkeys(names, "A large dog sleeps on the old sofa in a garden") | {
        "0.png": "The dog runs away"
    }
    folder = save(tmp_path / "more", {name: photo(n) for n, name in enumerate(names)}, sentences)
    report = examine(folder, settings=SIZE)
    assert not report.as_tags
    assert dict(report.words)["dog"] == 3
