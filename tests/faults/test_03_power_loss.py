"""Row 3: power loss. Each thing is durable before the next relies on it; whatever the disk forgets, the old
state is whole or the new one."""

import pytest

from tests.faults.saved import bases, save  # noqa: F401 - fixtures
from tests.torture import cuts, saves
from tests.torture.calls import FSYNC, MKDIR, OPEN, REMOVE, RENAME, WRITE, Call
from tests.torture.order import broken_rules


def test_03_the_order_of_calls_keeps_what_was_written(save, tmp_path):  # noqa: F811
    found = cuts.in_order(save, tmp_path)
    assert found.points >= 10
    assert not found.failures


def test_03_a_power_failure_after_any_call_leaves_the_old_state_or_the_new(save, tmp_path):  # noqa: F811
    found = cuts.without_power(save, tmp_path)
    assert found.points >= 30
    assert not found.failures


def test_03_a_checkpoint_is_pruned_only_after_the_new_one_is_durable(tmp_path):
    log = [(call.name, call.path) for call in cuts.calls_of(saves.CheckpointSave(), tmp_path)]
    put = next(at for at, (name, path) in enumerate(log) if name == RENAME and ".tmp-" in path)
    assert log[put - 1][0] == FSYNC, "the temporary folder"
    assert log[put + 1] == (FSYNC, "checkpoints")
    assert log[put + 2] == (RENAME, "checkpoints/step-000001")
    assert not [name for name, _ in log[: put + 2] if name == REMOVE]


GOOD = [
    Call(OPEN, "d/.tmp-a"), Call(WRITE, "d/.tmp-a", data=b"x"), Call(FSYNC, "d/.tmp-a"),
    Call(RENAME, "d/.tmp-a", "d/a"), Call(FSYNC, "d"), Call(REMOVE, "d/old"),
]  # fmt: skip


def test_03_the_rules_accept_what_is_right():
    assert broken_rules(GOOD) == []
    assert broken_rules([Call(MKDIR, "d"), Call(FSYNC, "."), *GOOD]) == []


@pytest.mark.parametrize("missing", [2, 4])
def test_03_the_rules_miss_no_fsync(missing):
    assert broken_rules(GOOD[:missing] + GOOD[missing + 1 :])


def test_03_the_rules_know_the_order():
    late_write = [*GOOD[:3], Call(WRITE, "d/.tmp-a", data=b"y"), *GOOD[3:]]
    early_removal = [*GOOD[:4], GOOD[5], GOOD[4]]
    folder_forgotten = [Call(MKDIR, "d"), *GOOD]
    in_place = [Call(OPEN, "d/a"), Call(WRITE, "d/a", data=b"x"), Call(FSYNC, "d/a"), Call(FSYNC, "d")]
    for log in (late_write, early_removal, folder_forgotten, in_place):
        assert broken_rules(log)


@pytest.mark.parametrize("plant", ["no-fsync"])
def test_03_a_save_that_waits_for_nothing_is_noticed(plant, tmp_path, monkeypatch):
    from lora_scripts.core import files
    from tests.torture.plants import PLANTS

    for function in (files.write_durable, files.sync_folder):
        monkeypatch.setattr(function, "__code__", function.__code__)  # put back afterwards
    PLANTS[plant].into_product()
    for number, found in enumerate((cuts.in_order, cuts.without_power)):
        place = tmp_path / str(number)
        place.mkdir()
        assert found(saves.CheckpointSave(), place).failures
