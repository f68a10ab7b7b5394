"""Rows of ``.jsonl`` and ``.json`` files, each with its physical line, and what is wrong with the JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from .row_faults import RowFault
from .text_files import printable

RawRow = tuple[int, Any, str]
"""Line, value (a RowFault where the row cannot be read), and the row as it stands in the file."""
_DECODER = json.JSONDecoder(strict=False)
_SPACE = re.compile(r"[ \t\n\r]*")
_LIST_OF_OBJECTS = re.compile(r"\s*\[\s*(?:\{|$)")
_WIDE = "“”‘’：，｛｝［］"
SHOWN = 200
"""Characters of a row that are kept to be shown."""


def rows_of_lines(lines: Iterable[tuple[int, str]]) -> Iterator[RawRow]:
    """One object per line; blank lines are passed over. A list in a ``.jsonl`` file is one fault, and so
    are objects over several lines."""
    first = True
    for line, text in lines:
        if not text or text.isspace():
            continue
        try:
            value = _DECODER.decode(text)
        except (ValueError, RecursionError) as error:
            if first and _LIST_OF_OBJECTS.match(text):
                yield line, RowFault("LS2123"), text
                return
            position = error.pos if isinstance(error, json.JSONDecodeError) else 0
            code = _code(text, position, error)
            if first and text.strip() == "{":
                yield line, RowFault("LS2164"), text
                return
            value = RowFault(code, at_column=position + 1, **_around(text, position))
        if first and isinstance(value, list) and _LIST_OF_OBJECTS.match(text):
            yield line, RowFault("LS2123"), text
            return
        first = False
        yield line, value, text


def _around(text: str, position: int) -> dict[str, Any]:
    """Parameters of every fault in JSON: the column, and the character that stands there."""
    start = text.rfind("\n", 0, position) + 1
    character = printable(text[position : position + 1]).strip() or "␣"
    return {"column": position - start + 1, "character": character}


def _code(text: str, position: int, error: Exception) -> str:
    """What is most likely wrong at ``position``, in the words of people who do not write parsers."""
    here = text[position : position + 1]
    before = text[:position].rstrip()[-1:]
    rest = text[position:].strip()
    message = getattr(error, "msg", "")
    if isinstance(error, RecursionError) or not isinstance(error, json.JSONDecodeError):
        return "LS2120"
    if here == "'":
        return "LS2121"
    if here and here in _WIDE:
        return "LS2127"
    if here == "," and message.startswith("Illegal trailing comma"):
        return "LS2122"
    if here in ("}", "]") and before == ",":
        return "LS2122"
    if message.startswith("Extra data"):
        return "LS2125" if rest in (",", "]", "],") else "LS2126"
    if not rest or message.startswith("Unterminated string"):
        return "LS2124"
    return "LS2120"


def rows_of_list(text: str, is_row: Any) -> Iterator[RawRow]:
    """The elements of a JSON list, one by one, each with the line on which it begins; also of the only list
    inside one object, and of objects without brackets around them.

    ``is_row``: whether an object is a row itself rather than a shell around a list of rows. After a fault
    reading goes on at the next element that begins a line as the bad one did.
    """
    start = _skip(text, 0)
    whole = text[start : start + 1] == "["
    if text[start : start + 1] == "{":
        inner = _list_inside(text, start, is_row)
        if inner is None:
            yield from _elements(text, start, bracketed=False)
            return
        start = inner
    if text[start : start + 1] == "[":
        yield from _elements(text, start + 1, bracketed=True, whole=whole)
    elif start < len(text):
        line = text.count("\n", 0, start) + 1
        yield line, RowFault("LS2120", at_line=line, **_around(text, start)), text[start : start + SHOWN]


def _skip(text: str, position: int) -> int:
    found = _SPACE.match(text, position)
    return found.end() if found else position


def _list_inside(text: str, start: int, is_row: Any) -> int | None:
    """Where the only list of an object begins, if the object is the whole file and no row itself."""
    lists: list[int] = []
    try:
        value, end = _DECODER.raw_decode(text, start)
        if is_row(value) or _skip(text, end) < len(text):
            return None
        position = _skip(text, start + 1)
        while text[position] == '"':
            _, position = _DECODER.raw_decode(text, position)
            position = _skip(text, _skip(text, position) + 1)
            if text[position] == "[":
                lists.append(position)
            _, position = _DECODER.raw_decode(text, position)
            position = _skip(text, position)
            position = _skip(text, position + 1) if text[position] == "," else position
    except (ValueError, RecursionError, IndexError):
        return _list_in_broken_object(text, start)
    return lists[0] if len(lists) == 1 else None


def _list_in_broken_object(text: str, start: int) -> int | None:
    """The shell cannot be read whole: its first list, if objects stand in it."""
    found = re.compile(r'\{\s*"[^"\n]{1,40}"\s*:\s*(?=\[\s*\{\s*"[^"\n]{1,40}"\s*:\s*["\[])').match(
        text, start
    )
    name = found and re.search(r'"([^"]*)"', found[0])
    if not found or (name and name[1].lower() in ("messages", "conversations", "conversation")):
        return None
    return found.end()


def _elements(text: str, position: int, *, bracketed: bool, whole: bool = False) -> Iterator[RawRow]:
    """``whole``: nothing may follow the closing bracket."""
    counted, line = 0, 1

    def line_at(place: int) -> int:
        nonlocal counted, line
        if place < counted:
            return text.count("\n", 0, place) + 1
        line += text.count("\n", counted, place)
        counted = place
        return line

    def fault(code: str, place: int, begin: int) -> RawRow:
        first = line_at(begin)
        around = _around(text, place)
        at = first + text.count("\n", begin, place)
        problem = RowFault(code, at_line=at, at_column=around["column"], **around)
        return first, problem, text[begin : begin + SHOWN]

    expected = False
    while True:
        position = _skip(text, position)
        if position >= len(text):
            if bracketed:
                yield fault("LS2124", len(text.rstrip()), max(0, len(text.rstrip()) - 1))
            return
        if bracketed and text[position] == "]":
            after = _skip(text, position + 1)
            if whole and after < len(text):
                yield fault("LS2126", after, after)
            return
        if text[position] == ",":
            following = _skip(text, position + 1)
            if bracketed and text[following : following + 1] == "]":
                yield fault("LS2122", position, position)
                return
            if not bracketed and following >= len(text):
                return
            position, expected = following, False
        elif expected and bracketed:
            yield fault("LS2129", position, position)
        try:
            value, end = _DECODER.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            place = error.pos if isinstance(error, json.JSONDecodeError) else position
            yield fault(_code(text, place, error), place, position)
            following_row = _next_element(text, position)
            if following_row is None:
                return
            position, expected = following_row, False
            continue
        yield line_at(position), value, text[position : min(end, position + SHOWN)]
        position, expected = end, True


def _next_element(text: str, bad: int) -> int | None:
    """Where the element after a bad one begins: at a line that begins as the bad one's did, or behind a comma
    where all stands on one line and no object lies inside another."""
    begin = text.rfind("\n", 0, bad) + 1
    indent = text[begin:bad]
    pattern = r"^ ?(?=\{)" if indent.strip() == "[" else rf"^{re.escape(indent)}(?=\{{)"
    if not indent.strip() or indent.strip() == "[":
        found = re.compile(pattern, re.MULTILINE).search(text, bad + 1)
        if found:
            return found.end()
    found = re.compile(r"\}\s*,\s*(?=\{\s*\"[^\"\n]{1,40}\"\s*:)").search(text, bad)
    return found.end() if found and "[" not in text[bad : found.end()] else None
