"""Fault 7, the disk is full, read-only or gone when a run saves: it goes on, the old checkpoint stays
whole, a banner says so, it is tried again; what cannot be saved at the end is an error with its remedy."""

import json
import shutil
import sys
from contextlib import suppress

import pytest

from lora_scripts.training.stages import CachedStages
from tests.faults.conftest import weights, whole_checkpoints

PREVIEWS = {
    "pictures": {"prompts": ["a red house"], "steps": 2, "width": 16, "height": 16},
    "texts": {"prompts": ["Where is my parcel?"], "max_new_tokens": 4},
}


def options(desk):
    task = "texts" if "rows.jsonl" in {path.name for path in desk.root.iterdir()} else "pictures"
    return dict(
        max_steps=8, save_steps=2, output_name="same", preview=PREVIEWS[task] | {"every_steps": 1},
        logging={"histogram_every_steps": 1}, validation={"split": 0.1, "every_steps": 4},
    )  # fmt: skip


def events(folder):
    lines = (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_the_run_goes_on_and_saves_later(any_desk, disk, at_step):
    desk, run = any_desk, disk.root / "run"
    straight = desk.train(desk.config("straight.yaml", output_dir="output/straight", **options(desk)))
    assert straight.code == 0, straight.text
    whole = {}
    at_step({3: disk.fill, 5: lambda: whole.update(during=whole_checkpoints(run)), 6: disk.clear})
    done = desk.train(desk.config(output_dir=str(run), **options(desk)))
    assert done.code == 0, done.text
    assert "Traceback" not in done.text
    assert whole["during"] == [2], "what was saved before the disk was full is whole"
    assert "!! step 4: NOT SAVED: No space left on device (0 MiB free)" in done.out
    assert "the next try comes at step 5." in done.out
    assert done.out.count("NOT SAVED") == 2, "at step 4 and, again, at step 5"
    assert "LS5007" in done.out, "what only watches is told once"
    assert weights(run) == weights(desk.root / "output/straight")
    saved = [event["step"] for event in events(run) if event["type"] == "saved"]
    assert saved == [2, 6, 8]
    steps = [event["step"] for event in events(run) if event["type"] == "step"]
    assert steps[-1] == 8, "the log goes on when there is room again"
    assert not list(run.rglob(".tmp-*"))


@pytest.mark.parametrize("fault", ["full", pytest.param("read-only", marks=pytest.mark.long)])
def test_a_disk_that_stays_so_ends_the_run_with_the_old_checkpoint_whole(
    make_text_desk, disk, at_step, fault
):
    desk, run = make_text_desk(), disk.root / "run"
    reason = {"full": "No space left on device", "read-only": "Read-only file system"}[fault]
    at_step({3: disk.fill if fault == "full" else disk.turn_read_only})
    config = desk.config(output_dir=str(run), **options(desk))
    done = desk.train(config)
    assert done.code == 4, done.text
    assert "Traceback" not in done.text
    assert "LS3951" in done.err
    assert reason in done.err
    assert whole_checkpoints(run) == [2]
    at_step({})
    (disk.clear if fault == "full" else disk.turn_writable)()
    again = desk.train(config)
    assert again.code == 0, again.text
    assert "going on from step-000002" in again.out


@pytest.mark.long
def test_a_folder_that_is_deleted_is_made_anew(make_text_desk, at_step):
    desk = make_text_desk()
    straight = desk.train(desk.config("straight.yaml", output_dir="output/straight", **options(desk)))
    assert straight.code == 0, straight.text
    run = desk.root / "output/run"
    config = desk.config(output_dir=str(run), **options(desk))
    at_step(
        {
            3: lambda: shutil.rmtree(run),
            5: lambda: (run / "control").mkdir(exist_ok=True) or (run / "control/stop").touch(),
        }
    )
    done = desk.train(config)
    assert done.code == 0, done.text
    assert "Traceback" not in done.text
    assert "LS5031" in done.out
    assert whole_checkpoints(run)[0] == 4
    at_step({})
    again = desk.train(config)
    assert again.code == 0, again.text
    assert "going on from step-0000" in again.out, "its papers were written again"
    assert weights(run) == weights(desk.root / "output/straight")


def test_a_disk_that_is_pulled_out_takes_only_what_was_on_it(make_text_desk, disk, at_step):
    desk, run = make_text_desk(), disk.root / "run"
    at_step({3: disk.vanish})
    done = desk.train(desk.config(output_dir=str(run), **options(desk)))
    assert done.code == 0, done.text
    assert "Traceback" not in done.text
    assert "LS5031" in done.out
    assert whole_checkpoints(run) == [4, 6, 8]


@pytest.mark.long
def test_a_cache_that_fills_up_ends_the_run_before_it_began(make_desk, disk, monkeypatch):
    """It had room when that was counted; somebody else was quicker."""
    desk = make_desk()
    config = desk.config(cache_dir=str(disk.root / "cache"), max_steps=1, logging={"tensorboard": False})
    real = CachedStages.fill

    def fill(self, samples, progress):
        disk.fill()
        real(self, samples, progress)

    with monkeypatch.context() as patch:
        patch.setattr(CachedStages, "fill", fill)
        done = desk.train(config)
    assert done.code == 4, done.text
    assert "LS3021" in done.err
    assert "Traceback" not in done.text
    disk.clear()
    again = desk.train(config)
    assert again.code == 0, again.text


def test_a_full_disk_behind_the_screens_output_does_not_end_the_run(make_text_desk, at_step, monkeypatch):
    """As with ``train.py > log.txt``."""
    desk = make_text_desk()
    full = []

    def redirect():
        full.append(open("/dev/full", "w", encoding="utf-8"))  # noqa: SIM115 - open as long as the run
        sys.stdout = full[0]

    at_step({3: redirect})
    done = desk.train(desk.config(**options(desk)))
    assert done.code == 0, done.text
    assert "Traceback" not in done.text
    assert full
    with suppress(OSError):
        full[0].close()
    assert weights(desk.root / "output/voice")
    codes = [event["data"]["code"] for event in events(desk.root / "output/voice") if event["type"] == "note"]
    assert codes.count("LS5007") == 1, "the log tells why nothing more was said"
