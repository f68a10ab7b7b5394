"""The record beside the output: what it remembers, however a program that wrote it has died."""

from __future__ import annotations

import json

import pytest

from lora_scripts.labeling.record import Entry, Record


@pytest.fixture
def path(tmp_path):
    return tmp_path / ".metadata.csv.labels.jsonl"


def died(record: Record) -> None:
    """What lies on the disk is what was handed to the system; nothing else is written."""
    record._handle.close()


def test_a_caption_is_in_the_file_as_soon_as_it_is_made(path):
    record = Record(path, "s")
    record.add("a.png", "霓虹", before="old")
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert lines[1] == {"name": "a.png", "text": "霓虹", "before": "old"}
    died(record)


@pytest.mark.parametrize("lost", range(1, 40))
def test_a_torn_line_costs_its_own_caption_only(path, lost):
    record = Record(path, "s")
    record.add("a.png", "one")
    record.add("b.png", "x" * 40)
    died(record)
    path.write_bytes(path.read_bytes()[:-lost])
    record = Record(path, "s")
    assert set(record.entries) == record.current == {"a.png"}
    assert record.goes_on
    record.add("c.png", "three")
    died(record)
    assert {"a.png", "c.png"} <= Record(path, "s").entries.keys()


def test_an_unfinished_run_goes_on_with_the_same_settings_only(path):
    record = Record(path, "s")
    record.add("a.png", "one")
    died(record)
    same = Record(path, "s")
    assert (same.goes_on, same.knew, same.current) == (True, False, {"a.png"})
    died(same)
    other = Record(path, "t")
    assert (other.goes_on, other.knew, other.current) == (False, True, set())
    assert other.entries == {"a.png": Entry("one", "s", None, pending=True)}
    other.written()
    assert not other.entries["a.png"].pending
    other.finish()
    again = Record(path, "t")
    assert (again.goes_on, again.knew, again.current) == (False, True, set())
    assert again.entries == {"a.png": Entry("one", "s")}
    again.close()


def test_a_finished_record_has_one_line_for_each_picture(path):
    for number in range(3):
        record = Record(path, str(number))
        record.add("a.png", f"text {number}", before=f"text {number - 1}")
        record.finish()
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [line.get("text") for line in lines] == [None, "text 2", None]
    assert lines[1]["before"] == "text 1"
