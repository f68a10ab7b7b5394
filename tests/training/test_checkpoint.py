"""The checkpoint store: what comes back, what is kept. Kills, cuts and flips: tests/faults/."""

import json

import pytest
import torch

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


def test_a_checkpoint_of_another_run_is_not_used(store):
    store.save(snapshot(1))
    assert CheckpointStore(store.folder, identity="other", keep=2).newest()[0] is None


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
