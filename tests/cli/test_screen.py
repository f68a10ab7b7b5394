"""A screen whose reader leaves says nothing more and stops nothing; a full disk behind it is still told."""

from __future__ import annotations

import os

import pytest

from lora_scripts.cli.screen import Patient


@pytest.fixture
def broken():
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", encoding="utf-8") as stream:
        yield stream


@pytest.mark.skipif(os.name == "nt", reason="pipes of POSIX")
def test_words_for_a_reader_who_left_go_nowhere(broken):
    screen = Patient(broken)
    assert screen.write("a" * 100_000) == 100_000
    screen.writelines(["b", "c"])
    screen.flush()
    print("d", file=screen, flush=True)
    screen.buffer.write(b"e")
    screen.buffer.flush()
    broken.flush()  # as Python itself does at its end


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a disk without room")
def test_a_full_disk_is_no_reader_who_left():
    stream = open("/dev/full", "w", encoding="utf-8")  # noqa: SIM115 - closing it fails too
    screen = Patient(stream)
    screen.write("a")
    with pytest.raises(OSError, match="No space"):
        screen.flush()
    with pytest.raises(OSError, match="No space"):
        stream.close()


def test_it_is_the_stream_in_all_else(tmp_path):
    with open(tmp_path / "said.txt", "w", encoding="utf-8") as stream:
        screen = Patient(stream)
        assert (screen.fileno(), screen.encoding, screen.isatty()) == (stream.fileno(), "utf-8", False)
        screen.write("said")
        screen.flush()
    assert (tmp_path / "said.txt").read_text(encoding="utf-8") == "said"
