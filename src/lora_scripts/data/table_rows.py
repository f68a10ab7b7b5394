"""Rows of tables: ``.csv`` and ``.tsv`` in blocks of lines, ``.parquet`` by row group."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..core.problems import Location, Problem, ProblemsError
from .json_rows import SHOWN, RawRow
from .row_faults import RowFault
from .table import BadRow, rows_of_lines
from .text_columns import KNOWN, check_names

_BAD = {"LS2003": "LS2160", "LS2004": "LS2161", "LS2005": "LS2142"}
PARQUET_ROWS = 512


def rows_of_table(
    lines: Iterable[tuple[int, str]], delimiter: str | None, columns: Mapping[str, str]
) -> Iterator[RawRow]:
    """Rows as objects under the names of the header, each with the line on which it begins. An empty cell
    is no value. ``delimiter``: None to find it in the header; ``columns``: role -> column as the user named
    them. A header with a fault is the only row."""
    header: tuple[str, ...] = ()
    for row in rows_of_lines((text for _, text in lines), delimiter, KNOWN):
        if isinstance(row, BadRow):
            yield row.line, RowFault(_BAD[row.code]), row.text
        elif not header:
            header = row.cells
            try:
                check_names(header, columns)
            except RowFault as fault:
                yield row.line, fault, row.text
                return
        elif len(row.cells) != len(header):
            yield row.line, RowFault("LS2162", found=len(row.cells), expected=len(header)), row.text
        else:
            yield row.line, {n: c or None for n, c in zip(header, row.cells, strict=True)}, row.text


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
