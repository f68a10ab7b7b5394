"""A cache gives back what was added, reads what other writers wrote, and keeps little of each key."""

from __future__ import annotations

import hashlib
import tracemalloc
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_scripts.training import cache as module
from lora_scripts.training.cache import StageCache

TYPES = [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]


def key(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def value(number: int) -> dict[str, torch.Tensor]:
    """Several tensors of several types and shapes, an empty and an odd one among them."""
    generator = torch.Generator().manual_seed(number)
    shapes = [(3,), (2, 2), (), (0, 4), (5, 1, 1), (7,)]
    return {
        f"t{place}": (torch.rand(shape, generator=generator) * 9).to(kind)
        for place, (shape, kind) in enumerate(zip(shapes, TYPES, strict=True))
    }


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


def test_what_was_added_comes_back_from_this_process_and_the_next(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(module, "SHARD_KEYS", 7)
    monkeypatch.setattr(module, "MAX_OPEN_SHARDS", 2)
    cache = StageCache(tmp_path)
    for number in range(40):
        cache.add(key(number), value(number))
    cache.flush()
    assert len(list(tmp_path.iterdir())) == 6
    for again in (cache, StageCache(tmp_path)):
        for number in reversed(range(40)):
            assert key(number) in again
            assert same(again.get(key(number)), value(number))
        assert key(41) not in again
        with pytest.raises(KeyError):
            again.get(key(41))


def test_shards_are_plain_safetensors_in_both_directions(tmp_path: Path) -> None:
    cache = StageCache(tmp_path / "ours")
    cache.add("k", value(1))
    cache.flush()
    (shard,) = (tmp_path / "ours").iterdir()
    assert same(load_file(shard), {f"k/{name}": tensor for name, tensor in value(1).items()})
    (tmp_path / "theirs").mkdir()
    tensors = {f"{key(n)}/{name}": tensor for n in range(3) for name, tensor in value(n).items()}
    save_file(tensors, tmp_path / "theirs/x.safetensors", metadata={"format": "pt"})
    theirs = StageCache(tmp_path / "theirs")
    assert all(same(theirs.get(key(n)), value(n)) for n in range(3))


def test_what_is_read_may_be_written_to_and_the_file_stays(tmp_path: Path) -> None:
    cache = StageCache(tmp_path)
    cache.add("k", {"t": torch.ones(4)})
    cache.flush()
    cache.get("k")["t"].zero_()
    assert StageCache(tmp_path).get("k")["t"].tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("kept", [0, 4, 9, 60, -1])
def test_a_damaged_shard_is_taken_away(tmp_path: Path, kept: int) -> None:
    cache = StageCache(tmp_path)
    cache.add("k", value(1))
    cache.flush()
    (shard,) = tmp_path.iterdir()
    shard.write_bytes(shard.read_bytes()[:kept])
    again = StageCache(tmp_path)
    assert "k" not in again
    assert not shard.exists()


@pytest.mark.parametrize("content", [b"[]", b"{", b'{"k/t": 1}', b'{"k/t": {"dtype": "F32"}}', b"\xff"])
def test_a_shard_that_is_none_is_taken_away(tmp_path: Path, content: bytes) -> None:
    shard = tmp_path / "x.safetensors"
    shard.write_bytes(len(content).to_bytes(8, "little") + content)
    assert "k" not in StageCache(tmp_path)
    assert not shard.exists()


def test_of_each_key_little_stays_in_memory(tmp_path: Path) -> None:
    cache = StageCache(tmp_path)
    for number in range(8000):
        cache.add(key(number), {"latents": torch.zeros(1)})
    cache.flush()
    tracemalloc.start()
    again = StageCache(tmp_path)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert key(7999) in again
    assert held < 8000 * (64 + 96)
