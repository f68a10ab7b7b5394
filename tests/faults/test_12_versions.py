"""Row 12: a manifest is missing, a strange file lies in the folder, another version wrote it."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from lora_scripts.core.catalogue import LANGUAGES, use_language
from lora_scripts.training.checkpoint import MANIFEST, CheckpointStore
from lora_scripts.training.state import TrainingState
from tests.torture import saves

GOLDEN = Path(__file__).parent / "golden"
"""A checkpoint in each form that was ever written, ``form-<version>``; they are never written anew."""
IDENTITY = "0" * 64


@pytest.fixture
def store(tmp_path):
    save = saves.CheckpointSave()
    save.prepare(tmp_path)
    return save.store(tmp_path)


@pytest.mark.parametrize("form", sorted(path.name for path in GOLDEN.iterdir()))
def test_12_every_form_that_was_ever_written_is_read(tmp_path, form):
    shutil.copytree(GOLDEN / form, tmp_path / "checkpoints")
    old = CheckpointStore(tmp_path / "checkpoints", identity=IDENTITY, keep=2)
    assert old.newest() == (2, {})
    found = old.load(2)
    assert torch.equal(found.adapter["unet.a.lora_A.weight"], torch.arange(8.0).reshape(2, 4))
    assert found.optimizer["unet.a.lora_A.weight|exp_avg"].dtype == torch.bfloat16
    state = TrainingState()
    state.restore(found.state["training"])
    assert (state.step, state.updates, state.best_loss, state.best_step) == (2, 2, 0.25, 2)
    assert state.metrics_after == {"perplexity": 1.25}


def test_12_a_folder_without_a_manifest_is_passed_over_and_told(store):
    (store.path(2) / MANIFEST).unlink()
    assert store.newest() == (1, {2: f"{MANIFEST} is missing"})


def test_12_a_strange_file_in_the_folder_harms_nothing(store):
    (store.path(2) / "notes.txt").write_text("mine")
    (store.path(2) / "folder").mkdir()
    (store.folder / "step-new").mkdir()
    (store.folder / "readme").write_text("mine")
    assert store.newest() == (2, {})
    store.save(saves.snapshot(3))
    store.save(saves.snapshot(4))
    assert store.newest() == (4, {})
    assert store.steps() == [3, 4]


@pytest.mark.parametrize("language", LANGUAGES)
def test_12_a_form_that_is_not_known_yet_is_told_as_such(store, language):
    path = store.path(2) / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"version": 2}, sort_keys=True, indent=1))
    use_language(language)
    step, damaged = store.newest()
    assert step == 1
    assert "2" in damaged[2]
    assert damaged[2] != MANIFEST
    assert ("form 2" if language == "en" else "格式版本") in damaged[2]


def test_12_a_checkpoint_of_another_run_is_told_as_such(store):
    other = CheckpointStore(store.folder, identity="1" * 64, keep=2)
    assert other.newest()[0] is None
    assert "another run" in other.newest()[1][2]
