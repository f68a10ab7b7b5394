"""Row 11: one flipped byte, or one too many, in any file of a checkpoint; the manifest too."""

import json
import random

import pytest

from lora_scripts.training.checkpoint import MANIFEST, STATE, CheckpointStore
from tests.contract.conftest import make_text_desk, tiny_chat_base  # noqa: F401 - fixtures
from tests.torture import flips, saves


@pytest.fixture
def small(tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints", identity="0" * 64, keep=2)
    for step in (1, 2):
        made = saves.snapshot(step)
        few = {name: value for name, value in made.optimizer.items() if value.numel() < 10}
        store.save(saves.Snapshot(step, made.adapter, few, made.state))
    return store


def test_11_flips_and_cuts_of_the_state_are_noticed(small):
    found = flips.unnoticed(small, only=STATE)
    assert found.points > 100
    assert not found.failures


@pytest.mark.long
def test_11_every_flip_and_every_cut_of_every_byte_is_noticed(small):
    found = flips.unnoticed(small)
    assert found.points > 3000
    assert not found.failures


def test_11_an_unchecked_manifest_is_noticed(small, monkeypatch):
    monkeypatch.setattr(CheckpointStore, "damage", lambda self, step: None)
    found = flips.unnoticed(small, only=STATE)
    assert len(found.failures) == found.points - 1


@pytest.mark.parametrize(
    "change",
    [
        lambda told: told | {"more": 1},
        lambda told: {**told, "files": {**told["files"], "other": {"size": 0, "sha256": ""}}},
        lambda told: {**told, "files": {name: told["files"][name] for name in list(told["files"])[:2]}},
        lambda told: {**told, "step": 2.0},
        lambda told: {**told, "identity": told["identity"].upper() + "x"},
    ],
)
def test_11_a_manifest_has_one_form_only(small, change):
    path = small.path(2) / MANIFEST
    told = json.loads(path.read_bytes())
    path.write_text(json.dumps(change(told), sort_keys=True, indent=1))
    assert small.newest()[0] == 1


def test_11_a_manifest_in_another_layout_is_not_ours(small):
    path = small.path(2) / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_bytes()), sort_keys=True, indent=2))
    assert small.newest()[0] == 1


def test_11_a_manifest_that_is_no_manifest_is_told_and_no_more(small):
    for nonsense in (b"", b"[]", b"{}", b'{"version": []}', b"\xff\xfe", b"[" * 100_000, b"null"):
        (small.path(2) / MANIFEST).write_bytes(nonsense)
        assert small.newest()[0] == 1


@pytest.mark.long
def test_11_the_command_line_says_which_is_damaged_and_the_bytes_are_equal(make_text_desk):  # noqa: F811
    desk = make_text_desk()
    options = {"max_steps": 6, "save_steps": 2, "output_name": "same", "logging": {"tensorboard": False}}
    assert desk.train(desk.config(output_dir="output/whole", **options)).code == 0
    config = desk.config(output_dir="output/hurt", **options)
    assert desk.train(config, "--set", "max_steps=4").code == 0
    hurt = desk.root / "output/hurt"
    chance = random.Random(11)
    for steps, name in ((4, "manifest.json"), (6, "optimizer.safetensors")):
        (hurt / "result.json").unlink()  # as if it had been killed before it was finished
        path = hurt / "checkpoints/step-000004" / name
        data = bytearray(path.read_bytes())
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
        again = desk.train(config, "--set", f"max_steps={steps}")
        assert again.code == 0, again.text
        assert "LS5005" in again.out
        assert "step-000004" in again.out
        assert "going on from step-000002" in again.out
        lines = (hurt / "events.jsonl").read_text().splitlines()
        assert any('"LS5005"' in line for line in lines)
    files = [desk.root / "output" / run / "adapter_model.safetensors" for run in ("whole", "hurt")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert len(list((hurt / "checkpoints").glob("damaged-*-step-000004"))) == 2
