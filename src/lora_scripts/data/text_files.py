"""Text files as people save them: UTF-8 with or without a mark, UTF-16, and GBK from Excel in China."""

from __future__ import annotations

import codecs
import unicodedata
from pathlib import Path

from ..core.problems import Location, Problem


def printable(text: str, limit: int = 80) -> str:
    """``text`` on one line, without control characters that a terminal would obey, cut at ``limit``."""
    flat = "".join(
        "\N{SYMBOL FOR NULL}" if char == "\0" else " " if unicodedata.category(char) in ("Cc", "Cf") else char
        for char in text[: limit + 1]
    )
    return flat if len(flat) <= limit else flat[: limit - 1] + "…"


def listing(names: list[str], limit: int = 5) -> str:
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
    shown = next(line for line in text.splitlines() if not line.isascii())
    return text, [Problem("LS2011", {"file": path.name, "sample": printable(shown)}, place, "warning")]
