"""Row 10: a file of a checkpoint is cut short. The older one is used, and which is told."""

import pytest

from lora_scripts.training.checkpoint import ADAPTER, MANIFEST, OPTIMIZER, STATE
from tests.torture import saves


@pytest.fixture
def store(tmp_path):
    save = saves.CheckpointSave()
    save.prepare(tmp_path)
    return save.store(tmp_path)


@pytest.mark.parametrize("name", [ADAPTER, OPTIMIZER, STATE, MANIFEST])
def test_10_a_file_cut_anywhere_is_named_and_the_older_checkpoint_used(store, name):
    path = store.path(2) / name
    good = path.read_bytes()
    for length in {*range(0, len(good), max(1, len(good) // 20)), len(good) - 1}:
        path.write_bytes(good[:length])
        step, damaged = store.newest()
        assert (step, list(damaged)) == (1, [2]), length
        assert name in damaged[2]
    path.write_bytes(good)
    assert store.newest() == (2, {})


def test_10_where_all_are_damaged_each_is_named(store):
    for step in (1, 2):
        (store.path(step) / ADAPTER).write_bytes(b"")
    reason = f"{ADAPTER} is not what was written"
    assert store.newest() == (None, {2: reason, 1: reason})


def test_10_a_damaged_checkpoint_is_set_aside_and_not_lost(store):
    (store.path(2) / ADAPTER).write_bytes(b"x")
    aside = store.set_aside(2)
    assert (aside / ADAPTER).read_bytes() == b"x"
    assert store.steps() == [1]
    store.save(saves.snapshot(2))
    assert store.newest() == (2, {})
    (store.path(2) / ADAPTER).write_bytes(b"y")
    assert store.set_aside(2) != aside
