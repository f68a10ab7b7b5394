"""The table of tokens: what was written is what is read, by number, from a memory map."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_scripts.data import token_table
from lora_scripts.data.token_table import DamagedTableError, TokenRow, TokenTable, content_key, write_table

META = {"files": ["a.jsonl", "b.jsonl"], "tokenizer": "toy"}


def row(ids, targets=None, rejected=None, **rest) -> TokenRow:
    learnt = [1] * len(ids) if targets is None else targets
    if rejected is not None:
        rest |= {
            "rejected_ids": np.array(rejected, np.int32),
            "rejected_targets": np.ones(len(rejected), np.bool_),
        }
    return TokenRow(np.array(ids, np.int32), np.array(learnt, np.bool_), **rest)


SEQUENCE = st.lists(st.integers(0, 2**31 - 1), max_size=12)
ROWS = st.lists(
    st.builds(
        row,
        SEQUENCE,
        rejected=st.none() | SEQUENCE,
        file=st.integers(0, 1),
        line=st.integers(1, 2**31 - 1),
        flags=st.integers(0, 255),
    ),
    max_size=12,
)


def same(one: TokenRow, other: TokenRow) -> bool:
    def equal(a, b):
        return a is b is None or (a is not None and b is not None and a.tolist() == b.tolist())

    names = ("ids", "targets", "rejected_ids", "rejected_targets")
    return all(equal(getattr(one, name), getattr(other, name)) for name in names) and (
        (one.file, one.line, one.flags) == (other.file, other.line, other.flags)
    )


@given(ROWS)
def test_what_is_written_is_what_is_read(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("table") / "t.arrow"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_table, "BATCH_ROWS", 3)
        assert write_table(path, rows, META) == len(rows)
    table = TokenTable.open(path)
    assert len(table) == len(rows)
    assert table.meta == META
    assert table.pairs == sum(r.rejected_ids is not None for r in rows)
    for number, expected in enumerate(rows):
        found = table.row(number)
        assert same(found, expected)
        assert found.key == content_key(expected).hex() == table.keys[number].decode()
        assert table.place(number).file == META["files"][expected.file]
        assert table.place(number).line == expected.line
        both = [expected.ids, *([] if expected.rejected_ids is None else [expected.rejected_ids])]
        assert table.lengths[number] == max(map(len, both))


def test_tokens_are_views_into_the_file(tmp_path):
    path = tmp_path / "t.arrow"
    write_table(path, [row(range(5)), row(range(7), rejected=range(3))], META)
    table = TokenTable.open(path)
    found = table.row(1)
    for part in (found.ids, found.targets, found.rejected_ids, found.rejected_targets):
        assert part.base is not None
        assert not part.flags.writeable
        assert not part.flags.owndata
    assert found.ids.dtype == np.int32
    assert found.targets.dtype == np.bool_
    assert np.shares_memory(table.row(0).ids, table._columns(0).values[0])


def test_a_first_token_is_never_counted_as_learnt(tmp_path):
    path = tmp_path / "t.arrow"
    rows = [row([1, 2, 3], [1, 0, 1]), row([1, 2], [1, 1], rejected=[3, 4, 5]), row([7])]
    write_table(path, rows, META)
    assert TokenTable.open(path).loss_tokens.tolist() == [1, 1 + 2, 0]


def test_the_key_is_of_the_content_and_nothing_else():
    plain = row([1, 2, 3])
    assert content_key(plain) == content_key(row([1, 2, 3], file=1, line=9, flags=3))
    others = [
        row([1, 2]),
        row([1, 2, 3], [1, 1, 0]),
        row([1, 2, 3], rejected=[]),
        row([1, 2, 3], rejected=[4]),
    ]
    assert len({content_key(other) for other in [plain, *others]}) == 5
    assert content_key(row([1], rejected=[2, 3])) != content_key(row([1, 2], rejected=[3]))


def test_meta_may_be_filled_while_rows_are_written(tmp_path):
    meta = {"files": ["a.jsonl"], "seen": 0}

    def rows():
        for number in range(3):
            meta["seen"] += 1
            yield row([number])

    write_table(tmp_path / "t.arrow", rows(), meta)
    assert TokenTable.open(tmp_path / "t.arrow").meta["seen"] == 3


def test_a_failure_leaves_the_old_table_and_no_rest(tmp_path):
    path = tmp_path / "t.arrow"
    write_table(path, [row([1])], META)

    def failing():
        yield row([2])
        raise RuntimeError("the encoder stopped")

    with pytest.raises(RuntimeError):
        write_table(path, failing(), META)
    assert os.listdir(tmp_path) == ["t.arrow"]
    assert TokenTable.open(path).row(0).ids.tolist() == [1]
    with pytest.raises(ValueError, match="differ in length"):
        write_table(path, [row([1, 2], [1])], META)


def test_anything_but_a_whole_table_is_refused(tmp_path):
    path = tmp_path / "t.arrow"
    with pytest.raises(FileNotFoundError):
        TokenTable.open(path)
    write_table(path, [row(range(100)) for _ in range(50)], META)
    whole = path.read_bytes()
    for end in [0, 1, 6, 40, *range(100, len(whole), 997), len(whole) - 1]:
        path.write_bytes(whole[:end])
        with pytest.raises(DamagedTableError):
            TokenTable.open(path)


def test_a_table_of_another_version_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "t.arrow"
    monkeypatch.setattr(token_table, "VERSION", token_table.VERSION + 1)
    write_table(path, [row([1])], META)
    monkeypatch.undo()
    with pytest.raises(DamagedTableError):
        TokenTable.open(path)


def test_the_same_rows_are_the_same_bytes(tmp_path):
    rows = [row([1, 2], rejected=[3]), row([4])]
    for name in ("one", "two"):
        write_table(tmp_path / name, rows, META)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_sources_that_moved_are_named_where_they_are(tmp_path):
    path = tmp_path / "t.arrow"
    write_table(path, [row([1], file=1, line=7)], META)
    assert str(TokenTable.open(path, ["x", "elsewhere.jsonl"]).place(0)) == "elsewhere.jsonl:7"
    assert json.dumps(TokenTable.open(path).meta)
    with pytest.raises(IndexError):
        TokenTable.open(path).row(1)
