"""The table reader agrees with what spreadsheets write, and takes any text without a traceback."""

from __future__ import annotations

import csv
import io
import tempfile
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from lora_scripts.core.catalogue import render
from lora_scripts.data.captions import clean
from lora_scripts.data.rows import read_rows
from lora_scripts.data.table import BadRow, parse_rows, quoted_row

CAPTIONS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)


@given(st.lists(CAPTIONS, min_size=1, max_size=8), st.booleans())
def test_what_the_standard_writer_writes_is_read_back(captions: list[str], windows: bool) -> None:
    buffer = io.StringIO(newline="")
    # With bare line feeds the standard writer forgets to quote a lone carriage return, unless it quotes all.
    quoting = csv.QUOTE_MINIMAL if windows else csv.QUOTE_ALL
    table = csv.writer(buffer, lineterminator="\r\n" if windows else "\n", quoting=quoting)
    table.writerow(["file_name", "text"])
    table.writerows([f"{number}.png", caption] for number, caption in enumerate(captions))
    rows = list(parse_rows(buffer.getvalue()))
    assert not [row for row in rows if isinstance(row, BadRow)]
    assert [clean(row.cells[1]) for row in rows[1:] if not isinstance(row, BadRow)] == [
        clean(caption) for caption in captions
    ]


@settings(max_examples=400)
@given(st.text(st.sampled_from('ab,"\n\r\0 \t;，“”.'), max_size=60), st.booleans())
@example('a.png,"', True)
@example('"', False)
def test_any_text_gives_rows_or_problems_with_lines_and_remedies(text: str, header: bool) -> None:
    text = ("file_name,text\n" if header else "") + text.replace("b.", "b.png")
    lines = text.replace("\r\n", "\n").replace("\r", "\n").count("\n") + 1
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "metadata.csv")
        path.write_bytes(text.encode())
        rows, problems = read_rows(path)
    places = [row.line for row in rows] + [p.where.line for p in problems if p.where and p.where.line]
    assert all(1 <= line <= lines for line in places)
    assert len(set(places)) == len(places), "a line is a row or a problem, and once"
    for problem in problems:
        assert "\0" not in render(problem, "en") + render(problem, "zh")


@given(CAPTIONS.map(clean))
def test_the_suggested_row_is_a_good_row(caption: str) -> None:
    (row,) = parse_rows(quoted_row("a, b.png", caption))
    assert not isinstance(row, BadRow)
    assert row.cells == ("a, b.png", caption)
