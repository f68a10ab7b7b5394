"""Fault 4, SIGTERM: the step is finished and saved, the process leaves with 143, the run goes on later. A
screen that is gone ends nothing."""

import os
import signal

import pytest

from lora_scripts.training.cache import StageCache
from lora_scripts.training.callbacks.preview import Previews
from lora_scripts.training.callbacks.sentences import Sentences
from lora_scripts.training.callbacks.validation import Evaluator, Validation
from lora_scripts.training.image_exports import ImageExports
from lora_scripts.training.text_exports import TextExports
from tests.faults.conftest import start, wait_for, weights, whole_checkpoints

OPTIONS = dict(max_steps=8, save_steps=2, lora_dropout=0.1, output_name="same")


@pytest.mark.long
def test_a_process_that_is_told_to_end_saves_and_ends_with_143(make_desk):
    desk = make_desk()
    process = start(desk, desk.config(**OPTIONS | {"max_steps": 4000}))
    wait_for(desk.root / "output/my_style/checkpoints/step-000002/manifest.json", process)
    process.terminate()
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 143, out
    assert "Traceback" not in out
    assert "Asked to end: this step is finished and saved first." in out
    saved = whole_checkpoints(desk.root / "output/my_style")[-1]
    assert f"Saved at step {saved} of 4000" in out


@pytest.fixture
def told_to_end(monkeypatch):
    """``told_to_end(run, Kind, "verb")``: runs, with a real SIGTERM when the verb is first called."""

    def attempt(run, kind, verb, code=143):
        called = []
        real = getattr(kind, verb)

        def hooked(self, *arguments, **options):
            if not called:
                called.append(verb)
                os.kill(os.getpid(), signal.SIGTERM)
            return real(self, *arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(kind, verb, hooked)
            done = run()
        assert called, verb
        assert done.code == code, done.text
        assert "Traceback" not in done.text
        return done

    return attempt


@pytest.mark.long
def test_a_picture_run_can_be_ended_at_any_moment_and_goes_on(make_desk, told_to_end):
    desk = make_desk()
    preview = {"prompts": ["a red house", "a blue house"], "steps": 2, "width": 16, "height": 16}
    options = OPTIONS | {"preview": preview, "logging": {"tensorboard": False}}
    straight = desk.train(desk.config("straight.yaml", output_dir="output/straight", **options))
    assert straight.code == 0, straight.text
    config = desk.config("cut.yaml", output_dir="output/cut", **options | {"cache_dir": "./other"})
    cut = desk.root / "output/cut"

    def run():
        return desk.train(config)

    done = told_to_end(run, StageCache, "add")
    assert "Stopped before the first step" in done.out
    assert any((desk.root / "other").rglob("*.safetensors")), "what was computed is kept"
    told_to_end(run, Validation, "before")
    assert whole_checkpoints(cut) == [0]
    told_to_end(run, Evaluator, "measure")
    assert whole_checkpoints(cut) == [0, 2]
    assert not (cut / "previews/step-000002").exists(), "leaving comes before drawing"
    told_to_end(run, Previews, "draw")  # what was left out is the next attempt's, which is ended as well
    assert whole_checkpoints(cut) == [0, 2]
    done = told_to_end(run, ImageExports, "finish", code=0)
    assert "Done." in done.out, "a run that writes its last files finishes"
    assert weights(cut) == weights(desk.root / "output/straight")
    for run_folder in (cut, desk.root / "output/straight"):
        names = sorted(path.name for path in (run_folder / "previews").iterdir())
        assert names == ["sheet.png", *(f"step-{step:06d}" for step in (2, 4, 6, 8))]


@pytest.mark.long
def test_a_text_run_can_be_ended_at_any_moment_and_goes_on(make_text_desk, told_to_end):
    desk = make_text_desk()
    preview = {"prompts": ["Where is my parcel?"], "max_new_tokens": 4}
    options = OPTIONS | {"preview": preview, "logging": {"tensorboard": False}, "validation": {"split": 0.2}}
    straight = desk.train(desk.config("straight.yaml", output_dir="output/straight", **options))
    assert straight.code == 0, straight.text
    config = desk.config("cut.yaml", output_dir="output/cut", **options)
    cut = desk.root / "output/cut"

    def run():
        return desk.train(config)

    told_to_end(run, Sentences, "before")
    assert whole_checkpoints(cut) == [0]
    told_to_end(run, Evaluator, "measure")
    assert whole_checkpoints(cut) == [0, 2]
    done = told_to_end(run, TextExports, "finish", code=0)
    assert "Done." in done.out
    assert weights(cut) == weights(desk.root / "output/straight")


@pytest.mark.long
@pytest.mark.skipif(os.name == "nt", reason="pipes of POSIX")
def test_a_run_whose_screen_is_gone_goes_on(make_text_desk):
    """As with ``train.py | tee log.txt`` when ``tee`` is ended."""
    desk = make_text_desk()
    reader, writer = os.pipe()
    os.close(reader)
    process = start(desk, desk.config(max_steps=3), stdout=writer, stderr=writer)
    os.close(writer)
    assert process.wait(120) == 0
    assert desk.result()["status"] == "finished"
