"""The checkpoint store: whole or absent, verified, pruned only after the new one is safe."""

import contextlib
import json
import os

import pytest
import torch

from lora_scripts.core import files
from lora_scripts.training import checkpoint
from lora_scripts.training.checkpoint import CheckpointStore, Snapshot


def snapshot(step: int) -> Snapshot:
    torch.manual_seed(step)
    tensors = {"unet.a.lora_A.weight": torch.randn(4, 8), "unet.a.lora_B.weight": torch.randn(8, 4)}
    state = {"m|exp_avg": torch.randn(3).bfloat16(), "m|state1": torch.arange(7, dtype=torch.uint8)}
    return Snapshot(step, tensors, state, {"training": {"step": step}})


@pytest.fixture
def store(tmp_path):
    return CheckpointStore(tmp_path / "checkpoints", identity="abc", keep=2)


def test_what_was_saved_comes_back_bit_for_bit(store):
    store.save(snapshot(3))
    loaded = store.load(3)
    for name, tensor in {**snapshot(3).adapter, **snapshot(3).optimizer}.items():
        back = {**loaded.adapter, **loaded.optimizer}[name]
        assert back.dtype == tensor.dtype
        assert torch.equal(back, tensor)
    assert loaded.state == {"training": {"step": 3}}


def test_equal_snapshots_give_equal_bytes(store, tmp_path):
    other = CheckpointStore(tmp_path / "other", identity="abc", keep=2)
    for name in (checkpoint.ADAPTER, checkpoint.OPTIMIZER, checkpoint.STATE, checkpoint.MANIFEST):
        assert (store.save(snapshot(1)) / name).read_bytes() == (other.save(snapshot(1)) / name).read_bytes()


def test_the_last_ones_and_the_pinned_one_are_kept(store):
    for step in (1, 2, 3, 4):
        store.save(snapshot(step), pinned={1})
    assert store.steps() == [1, 3, 4]


@pytest.mark.parametrize(
    "name", [checkpoint.ADAPTER, checkpoint.OPTIMIZER, checkpoint.STATE, checkpoint.MANIFEST]
)
def test_any_flipped_byte_or_cut_is_noticed_and_the_older_one_used(store, name):
    store.save(snapshot(1))
    path = store.save(snapshot(2)) / name
    good = path.read_bytes()
    for position in range(0, len(good), max(1, len(good) // 40)):
        for bad in (good[:position], good[:position] + bytes([good[position] ^ 4]) + good[position + 1 :]):
            path.write_bytes(bad)
            step, damaged = store.newest()
            assert step == 1, (name, position)
            assert list(damaged) == [2]
    path.write_bytes(good)
    assert store.newest() == (2, {})


def test_a_checkpoint_of_another_run_is_not_used(store):
    store.save(snapshot(1))
    assert CheckpointStore(store.folder, identity="other", keep=2).newest()[0] is None


def test_files_are_durable_before_the_rename_and_pruning_comes_last(store, monkeypatch):
    for step in (1, 2):
        store.save(snapshot(step))
    calls: list[str] = []
    real_fsync, real_rename, real_rmtree = os.fsync, os.rename, checkpoint.shutil.rmtree

    def fsync(handle):
        calls.append("fsync " + os.path.basename(os.readlink(f"/proc/self/fd/{handle}")))
        real_fsync(handle)

    def rename(source, target):
        calls.append("rename")
        real_rename(source, target)

    def rmtree(path, **options):
        calls.append("remove " + os.path.basename(path))
        real_rmtree(path, **options)

    monkeypatch.setattr(files.os, "fsync", fsync)
    monkeypatch.setattr(checkpoint.os, "rename", rename)
    monkeypatch.setattr(checkpoint.shutil, "rmtree", rmtree)
    store.save(snapshot(3))
    temporary = next(call for call in calls if ".tmp-" in call)
    order = [
        "fsync adapter.safetensors",
        "fsync optimizer.safetensors",
        "fsync state.json",
        "fsync manifest.json",
    ]
    assert calls == [*order, temporary, "rename", "fsync checkpoints", "remove step-000001"]
    assert temporary.startswith("fsync ")


@pytest.mark.parametrize("fatal", range(12))
def test_dying_at_any_system_call_of_a_save_leaves_the_old_checkpoint(store, monkeypatch, fatal):
    store.save(snapshot(1))
    count = 0

    class Died(BaseException):
        pass

    def dying(function):
        def call(*arguments, **options):
            nonlocal count
            count += 1
            if count - 1 == fatal:
                raise Died
            return function(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", dying(os.fsync))
        patch.setattr(checkpoint.os, "rename", dying(os.rename))
        # a killed process cleans nothing up
        patch.setattr(checkpoint.shutil, "rmtree", dying(lambda path, **options: None))
        with contextlib.suppress(Died):
            store.save(snapshot(2))
    step, damaged = store.newest()
    assert step in (1, 2)
    assert damaged == {}
    store.save(snapshot(3))
    assert store.newest() == (3, {})
    assert not list(store.folder.glob(".tmp-*"))


def test_a_full_disk_raises_and_leaves_what_was_there(store, monkeypatch):
    store.save(snapshot(1))

    def full(handle, tensors, metadata=None):
        handle.write(b"x")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_tensors", full)
        with pytest.raises(OSError, match="No space"):
            store.save(snapshot(2))
    assert store.newest() == (1, {})
    assert store.steps() == [1]


def test_the_manifest_names_every_file_with_size_and_hash(store):
    manifest = json.loads((store.save(snapshot(5)) / checkpoint.MANIFEST).read_text())
    assert manifest["step"] == 5
    assert set(manifest["files"]) == {checkpoint.ADAPTER, checkpoint.OPTIMIZER, checkpoint.STATE}
    assert all(set(facts) == {"size", "sha256"} for facts in manifest["files"].values())
