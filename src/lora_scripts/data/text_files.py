"""Text files as people save them: UTF-8 with or without a mark, UTF-16, and GBK from Excel in China."""

from __future__ import annotations

import codecs
import re
import unicodedata
from pathlib import Path

from ..core.problems import Location, Problem

_WIDE = re.compile(rb"[\xe0-\xff]")
"""Leads of three bytes and more in UTF-8, and a mark at the start."""
_IN_WORD = re.compile("[A-Za-z][À-ɏ]|[À-ɏ][A-Za-z]")
_WORD = re.compile("[Ͱ-Ͽ]{2}|[Ѐ-ӿ]{2}|[԰-֏]{2}|[֐-׿]{2}|[؀-ۿ]{2}")
"""Two letters in a row of the Greek, Cyrillic, Armenian, Hebrew or Arabic alphabet."""


def printable(text: str, limit: int = 80) -> str:
    """``text`` on one line, without control characters that a terminal would obey, cut at ``limit``."""
    flat = "".join(
        "\N{SYMBOL FOR NULL}" if char == "\0" else " " if unicodedata.category(char) in ("Cc", "Cf") else char
        for char in text[: limit + 1]
    )
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


SHOWN = 5
"""Names of a long list that are said."""


def listing(names: list[str], limit: int = SHOWN) -> str:
    """The first names of a long list, in any language."""
    return ", ".join(printable(name) for name in names[:limit]) + (", …" if len(names) > limit else "")


def _is_chinese(text: str) -> bool:
    """Whether foreign characters are everyday hanzi; Latin-1 and Shift-JIS read as GB18030 give rare ones."""
    foreign = [char for char in text if ord(char) > 127][:2000]
    common = 0
    for char in foreign:
        try:
            char.encode("gb2312")
            common += 1
        except UnicodeEncodeError:
            continue
    return common * 5 >= len(foreign) * 4


def two_readings(data: bytes) -> tuple[str, str] | None:
    """UTF-8 and GBK, where a text is valid as both and nothing in it tells which was meant.

    Two bytes of a hanzi can be one letter of UTF-8: a caption "猫" saved as GBK is "è". Characters of three
    bytes tell UTF-8, as do letters with accents inside of words.
    """
    if data.isascii() or _WIDE.search(data):
        return None
    try:
        text, hanzi = data.decode(), data.decode("gb2312")
    except UnicodeDecodeError:
        return None
    return None if _IN_WORD.search(text) else (text, hanzi)


def chosen(path: Path, readings: tuple[str, str], line: int | None = None) -> tuple[str, Problem]:
    """The likelier of two readings, hanzi unless letters of one alphabet stand side by side, and the warning
    that shows what was made of it."""
    text, hanzi = readings
    place = Location(str(path), line)
    if _WORD.search(text):
        told = {"file": path.name, "sample": _foreign(text), "other": _foreign(hanzi)}
        return text, Problem("LS2014", told, place, "warning")
    return hanzi, Problem("LS2011", {"file": path.name, "sample": _foreign(hanzi)}, place, "warning")


def _foreign(text: str) -> str:
    """A line that shows how a text was decoded."""
    return printable(next((line for line in text.splitlines() if not line.isascii()), ""))


def read_text(path: Path) -> tuple[str | None, list[Problem]]:
    """The text of ``path`` and what is to be said about its encoding; None where it cannot be read.

    No statistical detector is used: on short texts these take GBK for Big5 in silence.
    """
    place = Location(str(path))
    try:
        data = path.read_bytes()
    except OSError as error:
        return None, [Problem("LS2013", {"file": path.name, "reason": error.strerror or str(error)}, place)]
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        try:
            return data.decode("utf-16"), []
        except UnicodeDecodeError:
            return None, [Problem("LS2010", {"file": path.name}, place)]
    if data.count(0) * 4 > len(data) > 0:
        return None, [Problem("LS2010", {"file": path.name}, place)]
    if readings := two_readings(data):
        text, problem = chosen(path, readings)
        return text, [problem]
    try:
        return data.decode("utf-8-sig"), []
    except UnicodeDecodeError:
        pass
    try:
        text = data.decode("gb18030")
    except UnicodeDecodeError:
        return None, [Problem("LS2010", {"file": path.name}, place)]
    if not _is_chinese(text):
        return None, [Problem("LS2010", {"file": path.name}, place)]
    return text, [Problem("LS2011", {"file": path.name, "sample": _foreign(text)}, place, "warning")]
