"""A million rows do not live in memory: neither as texts nor as tokens."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest

from lora_scripts.data.mixing import repeats
from lora_scripts.data.split import held_out
from lora_scripts.data.text_sources import TextSource, open_texts
from lora_scripts.data.token_table import TokenRow, TokenTable, write_table

STATUS = Path("/proc/self/status")
MOST = 300


def anonymous() -> float:
    """Memory of this process that no file backs, in MiB."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1024


def write_rows(path: Path, count: int) -> None:
    with open(path, "w", encoding="utf-8") as file:
        for number in range(count):
            row = {"问题": f"第{number}号订单什么时候发货？", "回答": f"付款后二十四小时内，{number}。" * 4}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def stream(folder: Path, count: int) -> float:
    """Reads ``count`` rows, writes their tokens, maps the table; gives the most memory it took beyond the
    start, in MiB."""
    write_rows(folder / "rows.jsonl", count)
    start = peak = anonymous()
    texts = open_texts([TextSource(str(folder / "rows.jsonl"))])

    def rows():
        nonlocal peak
        for number, example in enumerate(texts):
            codes = np.frombuffer("".join(t.content for t in example.turns).encode("utf-32-le"), np.int32)
            targets = np.arange(len(codes)) >= len(example.turns[0].content)
            if number % 10_000 == 0:
                peak = max(peak, anonymous())
            yield TokenRow(codes, targets, line=example.where.line)

    assert write_table(folder / "rows.arrow", rows(), {"files": list(texts.files)}) == count
    assert texts.problems == []
    assert list(texts.counts.values()) == [count]
    table = TokenTable.open(folder / "rows.arrow")
    peak = max(peak, anonymous())
    assert len(table) == count
    assert table.place(count - 1).line == count
    held = held_out(table.keys, "auto")
    train = repeats(np.ones(count), table.keys)
    for number in train[:: max(1, count // 20_000)]:
        row = table.row(int(number))
        assert len(row.ids) == table.lengths[number]
    peak = max(peak, anonymous())
    assert len(held) == 8
    return peak - start


@pytest.mark.long
@pytest.mark.skipif(not STATUS.exists(), reason="anonymous memory is told by Linux")
def test_twenty_thousand_rows_take_a_few_megabytes(tmp_path):
    assert stream(tmp_path, 20_000) < 100


@pytest.mark.slow
@pytest.mark.skipif(not STATUS.exists(), reason="anonymous memory is told by Linux")
def test_a_million_rows_do_not_live_in_memory(tmp_path):
    begin = time.monotonic()
    grown = stream(tmp_path, 1_000_000)
    size = os.path.getsize(tmp_path / "rows.jsonl") >> 20
    print(f"\n{size} MiB of rows: +{grown:.0f} MiB, {time.monotonic() - begin:.0f} s")
    assert grown < MOST
