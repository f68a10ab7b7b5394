"""Fault 9, an output folder that cannot be written to: refused by ``check`` as well, and so is a cache."""

import shutil

import pytest


@pytest.mark.parametrize("command", ["check", "train"])
def test_a_read_only_disk_is_refused(any_desk, disk, command):
    disk.turn_read_only()
    config = any_desk.config(output_dir=str(disk.root / "run"), max_steps=1)
    done = any_desk.cli(command, "--config", config)
    assert done.code == 4, done.text
    assert (
        f"LS3014 nothing can be written to output_dir '{disk.root / 'run'}' (tried in '{disk.root}')"
        in done.err
    )
    assert "Traceback" not in done.text


def test_a_folder_of_somebody_else_is_refused(make_text_desk, monkeypatch):
    """The same without a disk of our own, for a user who is not root."""
    import os

    if os.name == "nt" or os.geteuid() == 0:
        pytest.skip("nothing is forbidden to root")
    desk = make_text_desk()
    (desk.root / "output").mkdir(mode=0o555)
    done = desk.cli("check", "--config", desk.config())
    assert done.code == 4, done.text
    assert "LS3014" in done.err


def test_a_read_only_cache_serves_where_it_holds_everything(either_desk, disk):
    desk, cache = either_desk, disk.root / "cache"
    options = dict(cache_dir=str(cache), max_steps=1, logging={"tensorboard": False})
    assert desk.train(desk.config(**options, output_dir="output/fills")).code == 0
    whole = sorted(path for path in cache.rglob("*") if path.is_file())
    disk.turn_read_only()
    done = desk.train(desk.config(**options, output_dir="output/reads"))
    assert done.code == 0, done.text
    assert f"LS3952 Warning: nothing can be written to the cache in '{cache}'" in done.err
    disk.turn_writable()
    assert sorted(path for path in cache.rglob("*") if path.is_file()) == whole
    for part in cache.iterdir():
        shutil.rmtree(part)
    disk.turn_read_only()
    done = desk.train(desk.config(**options, output_dir="output/lacks"))
    assert done.code == 4, done.text
    assert f"LS3952 nothing can be written to the cache in '{cache}" in done.err.replace("'/", "'/")
    assert "Read-only file system" in done.err
    assert "Traceback" not in done.text
    shown = desk.cli("check", "--config", desk.config(**options | {"cache_dir": str(cache / "new")}))
    assert shown.code == 4, "what is not there cannot be made"
