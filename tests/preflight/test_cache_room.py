"""The room that the cache takes is counted beforehand as what a run then writes, and a full disk is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from lora_scripts.config.load import load_config
from lora_scripts.preflight.checks import cache_room
from lora_scripts.preflight.machine import Machine
from lora_scripts.preflight.prepare import prepare
from tests.contract.conftest import make_desk, tiny_base  # noqa: F401 - fixtures

SETS = {
    "plain": {},
    "flips and shuffled captions": {
        "random_flip": True, "shuffle_caption": True, "caption_variants": 3, "caption_dropout_rate": 0.1,
    },
    "two sizes, in halves": {"resolution": [16, 24], "mixed_precision": "bf16"},
    "crops": {"random_crop": True},
    "a trained text encoder": {"train_text_encoder": True},
    "long captions and masks": {"max_caption_tokens": 150, "loss_mask": "alpha"},
    "repeats": {"repeats": 3, "validation": {"split": 0}},
}  # fmt: skip


def numbers_below(folder: Path) -> int:
    """Bytes of all tensors in the cache's folders that the count is about."""
    from safetensors.torch import load_file

    kept = [path for name in ("latents", "text", "mask") for path in (folder / name).glob("*.safetensors")]
    return sum(t.numel() * t.element_size() for path in kept for t in load_file(path).values())


@pytest.mark.long
@pytest.mark.parametrize("options", SETS.values(), ids=SETS)
def test_the_count_is_what_a_run_writes(make_desk, options, monkeypatch):  # noqa: F811
    desk = make_desk()
    path = desk.config(**{"max_steps": 1, "lora_rank": 1, "logging": {"tensorboard": False}, **options})
    monkeypatch.chdir(desk.root)
    room = prepare(load_config(path)).cache
    assert room is not None
    done = desk.train(path)
    assert done.code == 0, done.text
    assert room.size == numbers_below(desk.root / "cache")
    assert room.size > 0 or options.get("random_crop")
    if room.size:
        assert f"{room.latents} picture(s) and {room.texts} caption(s)" in done.out


def test_a_disk_that_cannot_take_it_stops_the_run_before_anything_is_loaded(
    make_desk,  # noqa: F811
    monkeypatch,
):
    desk = make_desk()
    path = desk.config(max_steps=1)
    monkeypatch.chdir(desk.root)
    plain = Machine.probe()

    def nearly_full(place: Path) -> int:
        return 2_000 if place.name == "cache" else plain.free_disk(place)

    monkeypatch.setattr(Machine, "probe", lambda **_: replace(plain, free_disk=nearly_full))
    found = prepare(load_config(path)).problems
    assert [each.code for each in found if each.severity == "error"] == ["LS3021"]
    assert desk.cli("check", "--config", path).code == 4


def test_what_the_cache_holds_already_is_not_asked_for_again(tmp_path):
    full = cache_room.CacheRoom(tmp_path, 1, 1, size=5_000, free=10)
    assert cache_room.check_room(full)
    (tmp_path / "latents").mkdir()
    (tmp_path / "latents/a.safetensors").write_bytes(bytes(4_990))
    assert not cache_room.check_room(full)


@pytest.mark.long
def test_a_disk_that_fills_up_on_the_way_is_said_and_what_is_whole_is_used(
    make_desk,  # noqa: F811
    monkeypatch,
):
    from lora_scripts.training import cache

    desk = make_desk()
    path = desk.config(max_steps=1, logging={"tensorboard": False})
    real, written = cache.write_atomic, []

    def full(place, content):
        if place.parent.name == "text":
            raise OSError(28, "No space left on device")
        written.append(place)
        real(place, content)

    monkeypatch.setattr(cache, "write_atomic", full)
    done = desk.train(path)
    assert done.code == 4, done.text
    assert "LS3021" in done.err
    monkeypatch.setattr(cache, "write_atomic", real)
    latents = desk.root / "cache/latents"
    before = {place.name: place.stat().st_mtime_ns for place in latents.iterdir()}
    assert before.keys() == {place.name for place in written if place.parent.name == "latents"}
    again = desk.train(path)
    assert again.code == 0, again.text
    assert before == {place.name: place.stat().st_mtime_ns for place in latents.iterdir()}
