"""Rows of a hand-edited CSV, each with the physical line that it starts on, and every malformed one.

Python's ``csv`` lets an unclosed quote swallow the rest of the file and hides where a row began. This
reader follows RFC 4180, allows blanks around quoted fields, and after a bad row goes on at the next line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from .folder import PICTURE_SUFFIXES

_LINE_END = re.compile(r"\r\n|\n|\r")
_PICTURE = r"\.(?:" + "|".join(suffix[1:] for suffix in sorted(PICTURE_SUFFIXES)) + ")"
_ROW_START = re.compile(rf'^\s*"?[^",;\t]*{_PICTURE}"?\s*[,;\t]', re.IGNORECASE)
_LOOSE_ROW = re.compile(rf'^\s*"?(?P<name>[^"]*?{_PICTURE})"?[\s,，;；:：|、]*(?P<caption>.*)$', re.I | re.S)
BLOCK = 2000
"""Lines of a table that are read at a time."""
MOST = 200_000
"""Lines that one quoted cell may take before its quote counts as never closed."""
_QUOTES = "\"'“”„‘’「」«»＂"


@dataclass(frozen=True)
class Row:
    """``cells`` without blanks around them; ``line`` counts physical lines from 1; ``text`` is as written."""

    line: int
    cells: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class BadRow:
    code: str
    line: int
    text: str


class _Malformed(Exception):  # noqa: N818 - caught within this file
    def __init__(self, code: str, index: int) -> None:
        super().__init__(code)
        self.code, self.index = code, index


def has_picture_suffix(cell: str) -> bool:
    return re.search(_PICTURE + r"$", cell.strip(), re.IGNORECASE) is not None


def runs_into_caption(cell: str) -> bool:
    """Whether a file name goes on into other words: a comma behind it is missing, and one in the caption was
    taken for it."""
    return not has_picture_suffix(cell) and re.search(_PICTURE + r"[\s\"'“]", cell, re.IGNORECASE) is not None


def delimiter_of(text: str, known: frozenset[str]) -> str:
    """A comma, unless the first row makes sense only with a tab or semicolon, as some spreadsheets write."""
    first = next((line for line in _LINE_END.split(text) if line.strip()), "")
    for delimiter in (",", "\t", ";"):
        cells = [cell.strip().strip('"') for cell in first.split(delimiter)]
        if len(cells) > 1 and (has_picture_suffix(cells[0]) or any(cell.lower() in known for cell in cells)):
            return delimiter
    return ","


def parse_rows(text: str, delimiter: str = ",") -> Iterator[Row | BadRow]:
    """Every row of ``text`` that is not blank, whole or bad, in order."""
    lines = _LINE_END.split(text)
    index = 0
    while index < len(lines):
        raw = lines[index]
        start = index
        if not raw.strip():
            index += 1
            continue
        if "\0" in raw:
            yield BadRow("LS2005", start + 1, raw)
            index += 1
            continue
        if '"' not in raw:
            yield Row(start + 1, tuple(cell.strip() for cell in raw.split(delimiter)), raw)
            index += 1
            continue
        try:
            cells, index = _cells(lines, start, delimiter)
            yield Row(start + 1, cells, "\n".join(lines[start:index]))
        except _Malformed as bad:
            yield BadRow(bad.code, bad.index + 1, lines[bad.index])
            index = bad.index + 1


def lines_of(text: str) -> Iterator[str]:
    """The lines of ``text``, whatever system they were written on, one after another."""
    start = 0
    for end in _LINE_END.finditer(text):
        yield text[start : end.start()]
        start = end.end()
    yield text[start:]


def rows_of_lines(
    lines: Iterable[str], delimiter: str | None, known: frozenset[str]
) -> Iterator[Row | BadRow]:
    """As ``parse_rows``, of which no more than a block and the row that crosses its end are in memory.
    ``delimiter``: None to find it in the header, by the names of columns that are ``known``."""
    lines = iter(lines)
    waiting: list[str] = []
    start, ended = 1, False
    while not ended or waiting:
        block = list(islice(lines, max(BLOCK, len(waiting))))
        ended = not block
        waiting += block
        if delimiter is None and any(line.strip() for line in waiting):
            delimiter = delimiter_of("\n".join(waiting[:BLOCK]), known)
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


def _cells(lines: list[str], index: int, delimiter: str) -> tuple[tuple[str, ...], int]:
    """The cells of the row that starts at ``lines[index]``, and the index of the line after it."""
    cells: list[str] = []
    position = 0
    while True:
        line = lines[index]
        begin = position
        while begin < len(line) and line[begin] in " \t" and line[begin] != delimiter:
            begin += 1
        if line[begin : begin + 1] == '"':
            value, closed_at, position = _quoted(lines, index, begin + 1)
            end = lines[closed_at].find(delimiter, position)
            after = lines[closed_at][position : end if end >= 0 else None]
            if after.strip():
                raise _Malformed("LS2003" if closed_at == index else "LS2004", index)
            cells.append(value)
            index = closed_at
        else:
            end = line.find(delimiter, position)
            cells.append(line[position : end if end >= 0 else None].strip())
        if end < 0:
            return tuple(cells), index + 1
        position = end + 1


def _quoted(lines: list[str], index: int, position: int) -> tuple[str, int, int]:
    """The value of a quoted field, the index of the line that closes it, and the place behind the quote."""
    opened = index
    parts: list[str] = []
    while True:
        line = lines[index]
        end = line.find('"', position)
        if end < 0:
            parts.append(line[position:] + "\n")
            index, position = index + 1, 0
            # A following row inside a caption means that the caption's own quote was forgotten.
            if index >= len(lines) or _ROW_START.match(lines[index]) or "\0" in lines[index]:
                raise _Malformed("LS2004", opened)
        elif line[end + 1 : end + 2] == '"':
            parts.append(line[position : end + 1])
            position = end + 2
        else:
            parts.append(line[position:end])
            return "".join(parts), index, end + 1


def quoted_row(name: str, caption: str) -> str:
    """A row as it should stand in the file."""
    shown = f'"{name}"' if "," in name else name
    return f'{shown},"{caption.replace(chr(34), chr(34) * 2)}"'


def suggestion(text: str) -> str:
    """What a malformed row was most likely meant to be."""
    found = _LOOSE_ROW.match(text)
    if not found:
        return quoted_row("image.jpg", "a caption")
    caption = found["caption"].strip().rstrip(",，;；").strip()
    while len(caption) > 1 and caption[0] in _QUOTES and (caption[-1] in _QUOTES or caption[0] == '"'):
        caption = caption[1:-1] if caption[-1] in _QUOTES else caption[1:]
    caption = caption.replace('\\"', '"').replace('""', '"').strip()
    return quoted_row(found["name"].strip(), caption or "a caption")
