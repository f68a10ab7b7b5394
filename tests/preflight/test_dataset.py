"""A folder is checked as a whole: everything wrong at once, else samples and a plan whose numbers add up."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lora_scripts.config.schema import RunConfig
from lora_scripts.core.catalogue import exit_code, render, use_language
from lora_scripts.core.problems import errors
from lora_scripts.preflight.checks.dataset import DatasetReport, check_pictures

SHAPES = ((128, 128), (192, 96), (96, 192), (160, 120))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    home = tmp_path / "pictures"
    home.mkdir()
    return home


@pytest.fixture(autouse=True)
def _english() -> Any:
    use_language("en")
    yield
    use_language(None)


def fill(folder: Path, count: int, first: int = 0) -> None:
    folder.mkdir(exist_ok=True)
    rows = ["file_name,text"]
    for number in range(first, first + count):
        colour = (number % 256, number // 256, 0)
        Image.new("RGB", SHAPES[number % len(SHAPES)], colour).save(folder / f"img{number:03}.png")
        rows.append(f'img{number:03}.png,"scene {number}, in red"')
    (folder / "metadata.csv").write_text("\n".join(rows), encoding="utf-8")


def config(folder: Path, **keys: Any) -> RunConfig:
    settings = {"train_data_dir": str(folder), "base_model": "builtin:demo", "output_dir": "out", **keys}
    return RunConfig.model_validate(settings)


def report_of(settings: RunConfig) -> DatasetReport:
    report, problems = check_pictures(settings, 128, 8)
    assert errors(problems) == []
    return report


def test_sixty_pictures_become_samples_and_a_plan_that_adds_up(folder: Path) -> None:
    fill(folder, 60)
    seen: list[tuple[int, int]] = []
    report, problems = check_pictures(config(folder, epochs=10), 128, 8, lambda *at: seen.append(at))
    assert problems == []
    assert seen[-1] == (60, 60)
    assert (len(report.train), len(report.validation), report.left_out) == (54, 6, 0)
    assert report.plan is not None
    assert report.plan.windows_per_epoch == 14
    assert report.total_steps == 140
    assert sum(report.buckets.values()) == 54
    text = "\n".join(report.lines())
    for part in (
        "Pictures: 60",
        "Trained on: 54",
        "Held out for validation: 6",
        "dropped = 0",
        "= 14",
        "= 140",
    ):
        assert part in text
    planned = {i for window in report.plan.epoch(0) for batch in window for i in batch.indices}
    assert planned == set(range(54))


def test_the_plan_is_said_in_chinese_too(folder: Path) -> None:
    fill(folder, 20)
    report = report_of(config(folder, max_steps=7))
    use_language("zh")
    text = "\n".join(report.lines())
    assert "总步数：7（max_steps）" in text
    assert not re.search(r"\{\w+\}", text)


@pytest.mark.parametrize(
    ("keys", "steps"),
    [({}, 14 * 20), ({"epochs": 3}, 42), ({"max_steps": 5}, 5), ({"gradient_accumulation_steps": 4}, 4 * 20)],
)
def test_how_many_steps(folder: Path, keys: dict[str, int], steps: int) -> None:
    fill(folder, 60)
    assert report_of(config(folder, **keys)).total_steps == steps


def test_everything_wrong_is_said_at_once(folder: Path) -> None:
    fill(folder, 6)
    with open(folder / "metadata.csv", "a", encoding="utf-8") as table:
        table.write('\nimg001.png "no comma"\nmissing.png,x')
    (folder / "img002.png").write_bytes(b"<html>denied</html>")
    (folder / "img003.png").write_bytes((folder / "img003.png").read_bytes()[:70])
    _, problems = check_pictures(config(folder), 128, 8)
    assert [problem.code for problem in errors(problems)] == ["LS2001", "LS2030", "LS2051", "LS2054"]
    assert exit_code(problems) == 3
    assert all(render(problem, lang) for problem in problems for lang in ("en", "zh"))


def test_bad_pictures_are_left_out_and_counted_on_request(folder: Path) -> None:
    fill(folder, 12)
    (folder / "img002.png").write_bytes(b"")
    report = report_of(config(folder, on_bad_image="skip"))
    assert (report.named, report.left_out, len(report.train)) == (12, 1, 11)
    assert "left out: 1" in report.lines()[0]


def test_a_validation_folder_of_its_own(folder: Path) -> None:
    fill(folder, 30)
    fill(folder / "held", 5, first=100)
    report = report_of(config(folder, validation={"data_dir": str(folder / "held")}))
    assert (len(report.train), len(report.validation)) == (30, 5)
    assert str(folder / "held") in report.lines()[1]
    assert {sample.name for sample in report.validation} == {f"img{number}.png" for number in range(100, 105)}


def test_a_leak_into_training_is_named(folder: Path, tmp_path: Path) -> None:
    fill(folder, 30)
    fill(tmp_path / "held", 2, first=28)
    _, problems = check_pictures(config(folder, validation={"data_dir": str(tmp_path / "held")}), 128, 8)
    assert [(p.code, p.params["count"]) for p in problems] == [("LS2071", 2)]


def test_errors_of_the_validation_folder_stop_too(folder: Path, tmp_path: Path) -> None:
    fill(folder, 30)
    _, problems = check_pictures(config(folder, validation={"data_dir": str(tmp_path / "none")}), 128, 8)
    assert [problem.code for problem in errors(problems)] == ["LS2020"]


def test_nothing_to_learn(folder: Path) -> None:
    report, problems = check_pictures(config(folder), 128, 8)
    assert [problem.code for problem in errors(problems)] == ["LS2021"]
    assert (report.plan, report.total_steps) == (None, 0)
    assert str(folder) in report.lines()[0]


def test_few_small_and_long_pictures_get_advice(folder: Path) -> None:
    for number, size in enumerate(((40, 40), (1000, 100), (128, 128))):
        Image.new("RGB", size, (number, 0, 0)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text("x", encoding="utf-8")
    report, problems = check_pictures(config(folder), 128, 8)
    assert [(p.code, p.severity, p.params["count"]) for p in problems] == [
        ("LS2064", "warning", 1),
        ("LS2065", "warning", 1),
        ("LS2070", "warning", 3),
    ]
    assert report.enlarged == 1
    assert len(report.train) == 3, "advice drops nothing"


def test_the_order_of_rows_changes_nothing(folder: Path) -> None:
    fill(folder, 40)
    first = report_of(config(folder))
    table = folder / "metadata.csv"
    head, *rows = table.read_text(encoding="utf-8").splitlines()
    table.write_text("\n".join([head, *reversed(rows)]), encoding="utf-8")
    second = report_of(config(folder))
    assert [sample.name for sample in first.train] == [sample.name for sample in second.train]
    assert first.fingerprint() == second.fingerprint()
    assert first.plan is not None
    assert second.plan is not None
    assert first.plan.epoch(1) == second.plan.epoch(1)


def test_pictures_of_an_earlier_run_inside_the_folder_are_passed_over(folder: Path) -> None:
    fill(folder, 12)
    (folder / "out").mkdir()
    Image.new("RGB", (64, 64)).save(folder / "out" / "preview.png")
    _, problems = check_pictures(config(folder, output_dir=str(folder / "out")), 128, 8)
    assert problems == []


def test_checking_pictures_never_imports_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys, lora_scripts.preflight.checks.dataset;"
        "sys.exit(any(name in sys.modules for name in ('torch', 'diffusers', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(("name", "buckets"), [("emoji60", 1), ("stamps60", 2)])
def test_real_pictures_go_through(name: str, buckets: int) -> None:
    import os

    home = os.environ.get("LORA_SCRIPTS_REAL_SETS")
    if not home or not Path(home, name).is_dir():
        pytest.skip("LORA_SCRIPTS_REAL_SETS names no folder made by tests/end_to_end/real_sets.py")
    report, problems = check_pictures(config(Path(home, name)), 128, 8)
    assert errors(problems) == []
    assert (len(report.train), len(report.validation), report.left_out) == (54, 6, 0)
    assert len(report.buckets) >= buckets
