"""The kept table of tokens, and which of its rows are held out."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest

from lora_scripts.core.catalogue import render, use_language
from lora_scripts.data.token_table import TokenRow, TokenTable, write_table
from lora_scripts.families._encode import Encoder
from lora_scripts.preflight.checks import text_table
from lora_scripts.preflight.checks.text_split import hold_out, repeats_of
from tests.preflight.text_cases import ROWS, check, codes, write
from tests.texts.small import chat_tokenizer


@pytest.fixture
def data(tmp_path):
    return tmp_path / "rows.jsonl"


class _Called(Exception):
    pass


def _never(*_args):
    raise _Called


def test_rows_are_encoded_once_and_found_again(data, monkeypatch):
    write(data, [*ROWS, {"prompt": "no answer"}])
    first, problems = check(data, on_bad_row="skip")
    monkeypatch.setattr(Encoder, "encode_all", _never)
    again, repeated = check(data, on_bad_row="skip")
    assert again.table.path == first.table.path
    assert [render(problem) for problem in repeated] == [render(problem) for problem in problems]
    assert codes(problems) == ["LS2190"]
    assert again.lines() == first.lines()
    assert again.fingerprint() == first.fingerprint()


@pytest.mark.parametrize(
    "options",
    [
        {"max_length": 200},
        {"loss_on": "all"},
        {"system": "Be brief."},
        {"on_long_row": "drop"},
        {"thinking": "drop"},
        {"chat_template": "chatml"},
        {"objective": "sft"},
        {"columns": {"prompt": "completion", "completion": "prompt"}},
    ],
)
def test_a_kept_table_is_not_used_for_anything_else(data, options, monkeypatch):
    write(data, ROWS)
    check(data)
    monkeypatch.setattr(Encoder, "encode_all", _never)
    check(data)
    with pytest.raises(_Called):
        check(data, **options)


def test_a_kept_table_is_not_used_for_other_data_tokenizers_or_code(data, monkeypatch):
    write(data, ROWS)
    check(data)
    monkeypatch.setattr(Encoder, "encode_all", _never)
    with pytest.raises(_Called):
        check(data, tokenizer=chat_tokenizer(marks=False))
    monkeypatch.setattr(text_table, "_code_hash", lambda: "other")
    with pytest.raises(_Called):
        check(data)
    monkeypatch.undo()
    monkeypatch.setattr(Encoder, "encode_all", _never)
    write(data, ROWS[:-1])
    with pytest.raises(_Called):
        check(data)


def test_a_damaged_table_is_written_anew(data):
    write(data, ROWS)
    report, _ = check(data)
    path = report.table.path
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"ARROW1"):
        path.unlink()
        path.write_bytes(damaged)
        assert len(check(data)[0].table) == 30
    path.with_suffix(".npz").write_bytes(b"PK")
    assert len(check(data)[0].table) == 30


def table_of(tmp_path, rows) -> TokenTable:
    path = tmp_path / "made.arrow"
    made = [TokenRow(np.array(ids, np.int32), np.ones(len(ids), np.bool_), line=line) for line, ids in rows]
    write_table(path, made, {"files": ["rows.jsonl"]})
    return TokenTable.open(path)


@pytest.mark.parametrize(
    ("count", "share", "held"),
    [
        (19, "auto", 0),
        (20, "auto", 2),
        (400, "auto", 40),
        (1000, "auto", 64),
        (10, 0.5, 5),
        (1, 0.5, 0),
        (30, 0, 0),
    ],
)
def test_how_many_rows_are_held_out(tmp_path, count, share, held):
    table = table_of(tmp_path, [(n, [1, 2, n]) for n in range(count)])
    train, validation = hold_out(table, np.arange(1, count + 1, dtype=np.uint64), share)
    assert (len(train), len(validation)) == (count - held, held)
    assert sorted([*train, *validation]) == list(range(count))


def test_the_choice_follows_content_and_neither_order_nor_place(tmp_path):
    rows = [[1, 2, n] for n in range(60)]
    chosen = []
    for order in (rows, rows[::-1]):
        table = table_of(tmp_path, list(enumerate(order)))
        _, validation = hold_out(table, np.zeros(60, np.uint64), "auto")
        chosen.append({tuple(table.row(int(number)).ids.tolist()) for number in validation})
    assert chosen[0] == chosen[1]


def test_rows_that_have_a_twin_or_share_their_prompt_are_held_out_last(tmp_path):
    alone, twins = [[1, 2, n] for n in range(10)], [[1, 3, n // 2] for n in range(10)]
    rows = [row for trio in zip(twins, alone, [[1, 4, n] for n in range(10)], strict=True) for row in trio]
    prompts = np.zeros(len(rows), np.uint64)
    prompts[[n for n, row in enumerate(rows) if row[1] == 4]] = np.arange(10) // 2 + 1
    table = table_of(tmp_path, list(enumerate(rows)))
    _, validation = hold_out(table, prompts, 1 / 3)
    assert [rows[int(number)] for number in validation] == alone


@pytest.mark.slow
def test_a_million_rows_stay_arrays(tmp_path):
    import tracemalloc

    count = 1_000_000
    table = table_of(tmp_path, ((n, [n & 1023, n >> 10, 7]) for n in range(count)))
    prompts = np.arange(1, count + 1, dtype=np.uint64)
    tracemalloc.start()
    train, validation = hold_out(table, prompts, "auto")
    shared = repeats_of(table, prompts, train, validation)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(validation) == 64
    assert len(shared.again) == len(shared.leaked) == 0
    assert peak < 400 * 2**20, "about 40 numbers of eight bytes per row"


def test_what_a_kept_table_says_is_in_the_language_of_the_day(data):
    write(data, [*ROWS, {"prompt": "no answer"}])
    use_language("en")
    _, problems = check(data, on_bad_row="skip")
    assert "completion is missing" in render(problems[0])
    use_language("zh")
    try:
        _, problems = check(data, on_bad_row="skip")
        assert "缺少 completion" in render(problems[0])
    finally:
        use_language("en")


def test_half_a_table_that_a_killed_process_left_is_removed_and_one_being_written_is_not(data):
    write(data, ROWS)
    folder = check(data)[0].table.path.parent
    old, young = folder / ".tmp-1-a.arrow", folder / ".tmp-2-b.arrow"
    for path in (old, young):
        path.write_bytes(b"x")
    os.utime(old, (time.time() - 3 * 86400,) * 2)
    check(data)
    assert old.exists(), "nothing is written, nothing is tidied up"
    check(data, max_length=200)
    assert (old.exists(), young.exists()) == (False, True)
