"""Rows of tables: ``.csv`` and ``.tsv`` in blocks of lines, ``.parquet`` by row group."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..core.problems import Location, Problem, ProblemsError
from .json_rows import SHOWN, RawRow
from .row_faults import RowFault
from .table import BadRow, Row, delimiter_of, parse_rows
from .text_columns import KNOWN

BLOCK = 2000
"""Lines of a table that are read at a time."""
MOST = 200_000
"""Lines that one quoted cell may take before its quote counts as never closed."""
_BAD = {"LS2003": "LS2160", "LS2004": "LS2161", "LS2005": "LS2142"}
PARQUET_ROWS = 512


def rows_of_table(lines: Iterable[tuple[int, str]], delimiter: str | None) -> Iterator[RawRow]:
    """Rows as objects under the names of the header, each with the line on which it begins. An empty cell
    is no value. ``delimiter``: None to find it in the header."""
    header: tuple[str, ...] = ()
    for row in _parsed(iter(lines), delimiter):
        if isinstance(row, BadRow):
            yield row.line, RowFault(_BAD[row.code]), row.text
        elif not header:
            header = row.cells
        elif len(row.cells) != len(header):
            yield row.line, RowFault("LS2162", found=len(row.cells), expected=len(header)), row.text
        else:
            yield row.line, {n: c or None for n, c in zip(header, row.cells, strict=True)}, row.text


def _parsed(lines: Iterator[tuple[int, str]], delimiter: str | None) -> Iterator[Row | BadRow]:
    """All rows, of which no more than a block and the row that crosses its end are in memory."""
    waiting: list[str] = []
    start, ended = 1, False
    while not ended or waiting:
        block = [text for _, text in islice(lines, max(BLOCK, len(waiting)))]
        ended = not block
        waiting += block
        if delimiter is None and waiting:
            delimiter = delimiter_of("\n".join(waiting[:BLOCK]), KNOWN)
        again = None
        for row in parse_rows("\n".join(waiting), delimiter or ","):
            # A quote that is open at the end of the block may be closed in the next one.
            at = row.line - 1
            unclosed = isinstance(row, BadRow) and row.code == "LS2004"
            if unclosed and not ended and len(waiting) - at < MOST:
                again = at
                break
            yield _moved(row, start - 1)
        if again is None:
            start, waiting = start + len(waiting), []
        else:
            start, waiting = start + again, waiting[again:]


def _moved(row: Row | BadRow, lines: int) -> Row | BadRow:
    if isinstance(row, BadRow):
        return BadRow(row.code, row.line + lines, row.text)
    return Row(row.line + lines, row.cells, row.text)


def parquet_columns(path: Path) -> list[str]:
    """Names of a Parquet file's columns. Raises ProblemsError LS2107 where it cannot be read."""
    try:
        with pq.ParquetFile(path) as file:
            return list(file.schema_arrow.names)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error


def rows_of_parquet(path: Path, columns: Iterable[str]) -> Iterator[RawRow]:
    """The named columns of each row, its number, from 1, in place of a line. Raises ProblemsError LS2107."""
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=PARQUET_ROWS, columns=list(columns)):
                for value in batch.to_pylist():
                    number += 1
                    yield number, value, _shown(value)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error


def _shown(value: dict[str, Any]) -> str:
    short = {key: text[:40] if isinstance(text, str) else None for key, text in value.items()}
    return json.dumps({key: text for key, text in short.items() if text is not None}, ensure_ascii=False)[
        :SHOWN
    ]


def _unreadable(path: Path, error: Exception) -> ProblemsError:
    reason = (str(error) or type(error).__name__).splitlines()[0][:200]
    return ProblemsError(Problem("LS2107", {"file": path.name, "reason": reason}, Location(str(path))))
