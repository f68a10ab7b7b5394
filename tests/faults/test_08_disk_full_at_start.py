"""Fault 8, the disk is full at the start: refused with what is needed and what is free, before anything is
written. Where the line is drawn is tested in tests/preflight/test_paths.py."""

import re

import pytest


@pytest.mark.parametrize("command", ["check", "train"])
def test_an_output_folder_without_room(any_desk, tiny_disk, command):
    config = any_desk.config(output_dir=str(tiny_disk.root / "run"))
    done = any_desk.cli(command, "--config", config)
    assert done.code == 4, done.text
    needed, free = map(
        int, re.search(r"LS3015 .*about (\d+) MiB are needed, (\d+) MiB are free", done.err).groups()
    )
    assert needed > free
    assert 20 <= free <= 24
    assert "Traceback" not in done.text
    assert not (tiny_disk.root / "run").exists()


def test_a_cache_without_room(any_desk, tiny_disk):
    tiny_disk.fill()
    done = any_desk.train(any_desk.config(cache_dir=str(tiny_disk.root / "cache")))
    assert done.code == 4, done.text
    assert "LS3021" in done.err
    assert re.search(r"are needed, 0 MiB are free", done.err)
    assert "Traceback" not in done.text
    assert not (any_desk.root / "output").exists()
