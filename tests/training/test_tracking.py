"""Trackers are told what happened, in their own words, and nothing that befalls them reaches the run.

The libraries are played by modules of this file, which write down how they were called; the tests at the end
ask the real ones where they are installed.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, get_args, get_origin

import pytest
from PIL import Image

from lora_scripts.config.schema import Logging, RunConfig
from lora_scripts.core.catalogue import use_language
from lora_scripts.core.events import Noted, Previewed, StepDone, Validated
from lora_scripts.core.packages import TRACKERS
from lora_scripts.core.paths import RunFolder
from lora_scripts.core.secrets import without_secrets
from lora_scripts.training import trackers
from lora_scripts.training.callbacks import tracking
from lora_scripts.training.callbacks.tracking import Tracking, open_trackers
from lora_scripts.training.trackers._base import Request

VALUES = {"lora_rank": 4, "logging": {"every_steps": 2}}


@pytest.fixture(autouse=True)
def _english() -> Any:
    use_language("en")
    yield
    use_language(None)


def step_done(loss: float = 0.5) -> StepDone:
    return StepDone(
        epoch=0.5, loss=loss, learning_rates={"predictor": 1e-3}, grad_norm=2.0, skipped=False, seconds=0.5,
        examples=4, memory_gib=1.5,
    )  # fmt: skip


FIGURES = {
    "train/loss": 0.5,
    "train/gradient_norm": 2.0,
    "learning_rate/predictor": 1e-3,
    "speed/examples_per_second": 8.0,
    "speed/memory_gib": 1.5,
}


def config(folder: Path, name: str, **logging: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "train_data_dir": "pics",
            "base_model": "builtin:demo",
            "output_dir": str(folder / "style"),
            "logging": {"trackers": [name], "every_steps": 2, **logging},
        }
    )


def follow(folder: Path, name: str, **logging: Any) -> tuple[list[Noted], RunFolder]:
    """A short run: steps 1 to 4, a validation, a preview, the end."""
    place = RunFolder(folder / "style", "style")
    place.root.mkdir(exist_ok=True)
    Image.new("RGB", (8, 8), "red").save(place.root / "00.png")
    said: list[Noted] = []
    for each in open_trackers(config(folder, name, **logging), VALUES, place, said.append):
        for step in (1, 2, 3, 4):
            each(step_done(math.nan if step == 4 else 0.5), step)
        each(Validated(loss=0.25, best=True, metrics={"perplexity": 3.0}), 4)
        each(Previewed(files=["00.png", "page.html"]), 4)
        each.finish(True)
    return said, place


class Calls(list):
    """How a library was called: (name, arguments, keywords), by any attribute that is called."""

    def record(self, name: str, result: Any = None) -> Any:
        def call(*args: Any, **keywords: Any) -> Any:
            self.append((name, args, keywords))
            return result

        return call

    def of(self, name: str) -> list[tuple[tuple, dict]]:
        return [(args, keywords) for said, args, keywords in self if said == name]


def play_wandb(monkeypatch: pytest.MonkeyPatch) -> Calls:
    calls = Calls()
    run = SimpleNamespace(
        id="abc123", url="https://wandb.example/abc123", log=calls.record("log"),
        define_metric=calls.record("define"), finish=calls.record("finish"),
    )  # fmt: skip
    module = ModuleType("wandb")
    vars(module).update(
        login=calls.record("login", True), init=calls.record("init", run), Image=lambda path: ("image", path),
        Settings=lambda **keywords: keywords,
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "wandb", module)
    return calls


def test_the_trackers_of_the_schema_have_a_file_and_a_package_each() -> None:
    annotation = Logging.model_fields["trackers"].annotation
    assert get_origin(annotation) is list
    known = set(get_args(get_args(annotation)[0]))
    files = {path.stem for path in Path(trackers.__path__[0]).glob("[!_]*.py")}
    assert known == files == set(TRACKERS)


def test_wandb_is_told_figures_pictures_and_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = play_wandb(monkeypatch)
    said, place = follow(tmp_path, "wandb", tracker_project="styles", tracker_run_name="first")
    ((_, init),) = calls.of("init")
    assert (init["project"], init["name"], init["id"], init["resume"]) == ("styles", "first", None, None)
    assert init["config"] == {"lora_rank": 4, "logging.every_steps": 2}
    assert init["mode"] is None
    assert init["settings"]["console"] == "off"
    finite = {name: value for name, value in FIGURES.items() if name != "train/loss"}
    assert [args[0] for args, _ in calls.of("log")] == [
        {**FIGURES, "step": 2},
        {**finite, "step": 4},
        {"validation/loss": 0.25, "validation/perplexity": 3.0, "step": 4},
        {"preview/0": ("image", str(place.root / "00.png")), "step": 4},
    ]
    assert calls.of("finish") == [((), {"exit_code": 0})]
    assert [each.text for each in said] == ["wandb follows this run: https://wandb.example/abc123"]
    assert json.loads(place.tracker_ids.read_text()) == {"wandb": "abc123"}

    follow(tmp_path, "wandb")
    again = calls.of("init")[1][1]
    assert (again["id"], again["resume"]) == ("abc123", "allow")


def test_wandb_offline_asks_for_no_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = play_wandb(monkeypatch)
    follow(tmp_path, "wandb", tracker_offline=True)
    assert calls.of("login") == []
    assert calls.of("init")[0][1]["mode"] == "offline"


def test_nobody_logged_in_is_told_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = play_wandb(monkeypatch)
    monkeypatch.setattr(sys.modules["wandb"], "login", lambda **_: False)
    said, place = follow(tmp_path, "wandb")
    assert [each.code for each in said] == ["LS7200"]
    assert "wandb login" in said[0].text
    assert calls.of("init") == []
    assert not place.tracker_ids.exists()


def test_a_tracker_that_fails_on_the_way_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = play_wandb(monkeypatch)
    monkeypatch.setenv("WANDB_API_KEY", "canary-5f2c")

    def broken(*_: Any) -> None:
        calls.append(("broken", (), {}))
        raise RuntimeError("401 for https://me:hunter2@api.example with canary-5f2c\nmore")

    init = sys.modules["wandb"].init
    monkeypatch.setattr(
        sys.modules["wandb"], "init", lambda **k: SimpleNamespace(**vars(init(**k)) | {"log": broken})
    )
    said, _ = follow(tmp_path, "wandb")
    assert [each.code for each in said] == ["", "LS7200"]
    assert "401" in said[1].text
    assert "canary-5f2c" not in said[1].text
    assert "hunter2" not in said[1].text
    assert "more" not in said[1].text
    assert len(calls.of("broken")) == 1


class Slow:
    id, address = "s", ""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def log(self, figures: Any, step: int) -> None:
        time.sleep(self.seconds)

    def finish(self, finished: bool) -> None:
        assert threading.current_thread() is not threading.main_thread()


def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracker: Any) -> tuple[Tracking, list[Noted]]:
    monkeypatch.setattr(tracking, "connect", lambda name, request: tracker)
    said: list[Noted] = []
    return Tracking("wandb", Request("p", "n", {}, tmp_path, True), tmp_path, said.append, 1), said


def test_a_server_that_never_answers_holds_nothing_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower, said = opened(tmp_path, monkeypatch, Slow(30))
    monkeypatch.setattr(tracking, "PATIENCE", 0.1)
    started = time.monotonic()
    for step in range(200):
        follower(step_done(), step)
    follower.finish(True)
    assert time.monotonic() - started < 15
    assert [each.code for each in said] == ["LS7200"]


def test_more_than_can_wait_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "WAITING", 5)
    follower, said = opened(tmp_path, monkeypatch, Slow(30))
    for step in range(50):
        follower(step_done(), step)
    follower.finish(True)
    assert [each.code for each in said] == ["LS7200"]
    assert "5 entries" in said[0].text


def test_signals_stay_the_runs_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries that want Ctrl-C for themselves ask on the main thread only, and are not called there."""
    calls = play_wandb(monkeypatch)
    init = sys.modules["wandb"].init

    def greedy(**keywords: Any) -> Any:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        return init(**keywords)

    monkeypatch.setattr(sys.modules["wandb"], "init", greedy)
    before = signal.getsignal(signal.SIGINT)
    follow(tmp_path, "wandb")
    assert signal.getsignal(signal.SIGINT) is before
    assert calls.of("finish")


def test_secrets_are_blotted_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "opensesame")
    monkeypatch.setenv("SOME_TOKEN", "1")
    assert without_secrets("1 opensesame at http://u:p@host/x") == "1 *** at http://***@host/x"


def test_real_wandb_offline_keeps_one_run_over_a_resume(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    found = []
    for _ in range(2):
        said, place = follow(tmp_path, "wandb", tracker_offline=True)
        assert [each.code for each in said] == [""]
        found.append(json.loads(place.tracker_ids.read_text())["wandb"])
    assert found[0] == found[1]
    files = list((place.tracker_files / "wandb").glob(f"offline-run-*/run-{found[0]}.wandb"))
    assert len(files) in (1, 2), "two attempts of one second share a folder"
    assert any(b"validation/perplexity" in file.read_bytes() for file in files)


def test_real_mlflow_in_a_folder_goes_on_after_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    for _ in range(2):
        said, place = follow(tmp_path, "mlflow", tracker_offline=True)
        assert [each.code for each in said] == [""]
    client = mlflow.MlflowClient(tracking_uri=(place.tracker_files / "mlruns").absolute().as_uri())
    run = client.get_run(json.loads(place.tracker_ids.read_text())["mlflow"])
    assert run.info.status == "FINISHED"
    assert run.data.params == {"lora_rank": "4", "logging.every_steps": "2"}
    assert run.data.metrics["validation/perplexity"] == 3.0
    assert {each.step for each in client.get_metric_history(run.info.run_id, "speed/memory_gib")} == {2, 4}
    assert [each.path for each in client.list_artifacts(run.info.run_id, "preview/0/step-000004")] == [
        "preview/0/step-000004/00.png"
    ]
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
