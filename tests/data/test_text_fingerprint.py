"""What a text run was trained on: the same everywhere, another for any other row."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lora_scripts.core.language import LANGUAGES, use_language
from lora_scripts.data.text_fingerprint import differences, fingerprint, summary
from lora_scripts.data.token_table import TokenRow, TokenTable, write_table

FILES = {"/home/a/data/train.jsonl": "11", "/home/a/more/train.jsonl": "22"}


@pytest.fixture
def table(tmp_path):
    rows = [TokenRow(np.arange(n, n + 4, dtype=np.int32), np.ones(4, np.bool_)) for n in range(6)]
    write_table(tmp_path / "t.arrow", rows, {"files": list(FILES)})
    return TokenTable.open(tmp_path / "t.arrow")


def made(table, train=(0, 1, 2, 3), validation=(4, 5), files=FILES):
    return fingerprint(table, np.array(train), np.array(validation), files)


def test_it_holds_counts_and_hashes_and_is_ready_for_json(table):
    value = json.loads(json.dumps(made(table)))
    assert (value["kind"], value["train"], value["validation"]) == ("text", 4, 2)
    assert value["files"] == {"data/train.jsonl": "11", "more/train.jsonl": "22"}
    assert summary(value) == {"sha256": value["sha256"], "train": 4, "validation": 2}
    assert not differences(value, made(table))
    assert differences(value, made(table)).lines() == []


def test_the_place_of_the_files_plays_no_part(table):
    moved = {r"D:\x\data\train.jsonl": "11", r"D:\x\more\train.jsonl": "22"}
    assert made(table) == made(table, files=moved)
    renamed = made(table, files={"/b/other.jsonl": "11"})
    assert renamed["sha256"] == made(table)["sha256"]
    assert not differences(made(table), renamed)


OTHERS = [
    {"train": (0, 1, 2)},
    {"train": (0, 1, 3, 2)},
    {"train": (0, 1, 2, 2)},
    {"validation": (5,)},
    {"validation": (3, 5)},
]


@pytest.mark.parametrize("other", OTHERS)
def test_other_rows_are_another_fingerprint(table, other):
    assert made(table)["sha256"] != made(table, **other)["sha256"]
    found = differences(made(table), made(table, **other))
    assert found
    for language in LANGUAGES:
        use_language(language)
        assert 1 <= len(found.lines()) <= 2  # how many rows differ and, where it is one, which


def test_differences_name_the_files(table):
    new = made(table, train=(0, 1), files={"/x/data/train.jsonl": "33", "/x/new.csv": "44"})
    old = made(table, files={"/y/train.jsonl": "11", "/y/gone.csv": "22"})
    use_language("en")
    assert differences(old, new).lines() == [
        "data files added: 1 (new.csv)",
        "data files removed: 1 (gone.csv)",
        "data files with other content: 1 (train.jsonl)",
        "rows trained on: 4 before, 2 now",
        "rows removed: 1 (train.jsonl:0)",
    ]
