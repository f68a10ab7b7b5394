"""``metadata.csv`` and ``metadata.jsonl`` as named captions, with or without a header."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..core.lookup import did_you_mean
from ..core.problems import Location, Problem
from .table import (
    BadRow,
    Row,
    has_picture_suffix,
    lines_of,
    quoted_row,
    rows_of_lines,
    runs_into_caption,
    suggestion,
)
from .text_files import printable, read_text

NAME_COLUMNS = (
    "file_name", "filename", "file", "image", "image_path", "image_file", "img", "path", "picture", "name",
    "文件名", "文件", "图片", "图像", "图片名", "图片路径",
)  # fmt: skip
CAPTION_COLUMNS = (
    "text", "caption", "captions", "prompt", "description", "tags",
    "描述", "提示词", "标注", "文本", "标签", "说明",
)  # fmt: skip
KNOWN = frozenset(NAME_COLUMNS + CAPTION_COLUMNS)


@dataclass(frozen=True)
class NamedCaption:
    """One row: the name of a picture as it was written, its caption, and the physical line."""

    name: str
    caption: str
    line: int


def read_rows(path: Path) -> tuple[list[NamedCaption], list[Problem]]:
    """The rows of a ``.csv``, ``.tsv``, ``.txt`` or ``.jsonl`` file and everything that is wrong with it."""
    rows: list[NamedCaption] = []
    problems: list[Problem] = []
    for each in stream_rows(path):
        if isinstance(each, Problem):
            problems.append(each)
        else:
            rows.append(each)
    return rows, problems


def stream_rows(path: Path) -> Iterator[NamedCaption | Problem]:
    """What ``read_rows`` gives, in the order of the file, one after another."""
    kind = path.suffix.lower()
    if kind not in (".csv", ".tsv", ".txt", ".jsonl"):
        yield Problem("LS2012", {"file": path.name}, Location(str(path)))
        return
    text, problems = read_text(path)
    yield from problems
    if text is None:
        return
    empty = True
    for each in _json_rows(path, text) if kind == ".jsonl" else _csv_rows(path, text):
        empty = False
        yield each
    if empty:
        yield Problem("LS2009", {"file": path.name}, Location(str(path)))


def _bad(code: str, path: Path, line: int, text: str, **params: object) -> Problem:
    shown = printable(text) or '""'
    found = {"line": line, "row": shown, "suggestion": printable(suggestion(text), 200), **params}
    return Problem(code, found, Location(str(path), line))


def _csv_rows(path: Path, text: str) -> Iterator[NamedCaption | Problem]:
    expected, name_at, caption_at = 2, 0, 1
    first = True
    for row in rows_of_lines(lines_of(text), None, KNOWN):
        if isinstance(row, BadRow):
            yield _bad(row.code, path, row.line, row.text)
            first = False
            continue
        if first and is_header(row):
            expected = len(row.cells)
            columns = columns_of(row, path)
            if isinstance(columns, Problem):
                yield columns
                return
            name_at, caption_at = columns
            first = False
            continue
        first = False
        name = row.cells[min(name_at, len(row.cells) - 1)]
        if (len(row.cells) == 1 and expected > 1) or runs_into_caption(name):
            yield _bad("LS2001", path, row.line, row.text)
        elif len(row.cells) != expected:
            yield _bad("LS2002", path, row.line, row.text, found=len(row.cells), expected=expected)
        elif not row.cells[name_at]:
            yield _bad("LS2006", path, row.line, row.text)
        else:
            yield NamedCaption(row.cells[name_at], row.cells[caption_at], row.line)


def is_header(row: Row) -> bool:
    """Whether a first row names columns: one is known, and none is the name of a picture."""
    cells = [cell.strip().lower() for cell in row.cells]
    return any(cell in KNOWN for cell in cells) and not any(has_picture_suffix(cell) for cell in cells)


def columns_of(row: Row, path: Path) -> tuple[int, int] | Problem:
    """Where a header has the file name and the caption."""
    cells = [cell.strip().lower() for cell in row.cells]
    names = [cells.index(known) for known in NAME_COLUMNS if known in cells]
    captions = [cells.index(known) for known in CAPTION_COLUMNS if known in cells]
    others = [index for index, cell in enumerate(cells) if cell not in KNOWN]
    # Of two columns, the one that is not known can only be the other.
    if len(cells) == 2 and others and len(names) + len(captions) == 1:
        return (names[0], others[0]) if names else (others[0], captions[0])
    if names and captions:
        return names[0], captions[0]
    missing = "text" if names else "file_name"
    near = next((cell for cell in cells if did_you_mean(cell, [missing])), "") or ", ".join(cells)
    header = printable(", ".join(cells))
    params = {"file": path.name, "column": missing, "header": header, "near": printable(near)}
    return Problem("LS2008", params, Location(str(path), row.line))


def _json_rows(path: Path, text: str) -> Iterator[NamedCaption | Problem]:
    if text.lstrip().startswith("["):
        yield Problem("LS2404", {"file": path.name}, Location(str(path), 1))
        return
    for line, raw in enumerate(_json_lines(text), 1):
        if not raw.strip():
            continue
        try:
            value = json.loads(raw)
        except (ValueError, RecursionError):
            value = None
        name = _first(value, NAME_COLUMNS)
        caption = _first(value, CAPTION_COLUMNS)
        if not name or caption is None or not _encodable(name + caption):
            yield _bad("LS2007", path, line, raw)
        else:
            yield NamedCaption(name.strip(), caption, line)


def _json_lines(text: str) -> Iterator[str]:
    """A lone carriage return ends no line of JSON."""
    start = 0
    while (end := text.find("\n", start)) >= 0:
        yield text[start:end].removesuffix("\r")
        start = end + 1
    yield text[start:]


def _first(value: object, names: Iterable[str]) -> str | None:
    if not isinstance(value, dict):
        return None
    return next((value[name] for name in names if isinstance(value.get(name), str)), None)


def _encodable(text: str) -> bool:
    """False for half a surrogate pair, which JSON can write and no tokenizer can read."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


__all__ = ["NamedCaption", "columns_of", "is_header", "quoted_row", "read_rows", "stream_rows"]
