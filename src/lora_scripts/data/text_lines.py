"""A text file of any size, line by line: its encoding, its hash, and each physical line with its number."""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ..core.problems import Location, Problem
from .text_files import chosen, read_text, two_readings

CHUNK = 1 << 20
LONGEST = 1 << 26
"""Characters of the longest line that is taken whole."""
SHORT = 1 << 16
"""Bytes of a text that may be valid in two encodings by chance."""
WHOLE = 1 << 30
"""Bytes of the largest file that is read whole where it cannot be streamed."""


@dataclass(frozen=True)
class Scan:
    """``encoding``: how to decode the file, None where it cannot be; ``damaged``: some lines hold bytes that
    are not UTF-8, though the file is."""

    sha256: str
    encoding: str | None = "utf-8-sig"
    damaged: bool = False
    problems: tuple[Problem, ...] = ()


def scan(path: Path) -> Scan:
    """One pass over the bytes. An encoding is told by marks and validity alone, never by statistics."""
    digest = hashlib.sha256()
    decoder, size, nuls, valid = None, 0, 0, True
    encoding = "utf-8-sig"
    try:
        with open(path, "rb") as handle:
            while chunk := handle.read(CHUNK):
                if decoder is None:
                    if chunk.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                        encoding = "utf-16"
                    decoder = codecs.getincrementaldecoder(encoding)()
                digest.update(chunk)
                size += len(chunk)
                nuls += chunk.count(0)
                valid = valid and _decodes(decoder, chunk)
            valid = valid and (decoder is None or _decodes(decoder, b"", final=True))
    except OSError as error:
        params = {"file": path.name, "reason": error.strerror or str(error)}
        return Scan("", None, problems=(Problem("LS2013", params, Location(str(path))),))
    sha256 = digest.hexdigest()
    if valid and size <= SHORT and (readings := two_readings(path.read_bytes())):
        first = next(n for n, line in enumerate(readings[0].splitlines(), 1) if not line.isascii())
        text, problem = chosen(path, readings, first)
        return Scan(sha256, "utf-8" if text == readings[0] else "gb18030", problems=(problem,))
    if valid and (encoding == "utf-16" or nuls * 4 <= size):
        return Scan(sha256, encoding)
    if encoding == "utf-16" or nuls * 4 > size:
        return Scan(sha256, None, problems=(Problem("LS2010", {"file": path.name}, Location(str(path), 1)),))
    return _not_utf8(path, sha256, size)


def _decodes(decoder: codecs.IncrementalDecoder, chunk: bytes, final: bool = False) -> bool:
    try:
        decoder.decode(chunk, final)
    except UnicodeDecodeError:
        return False
    return True


def _not_utf8(path: Path, sha256: str, size: int) -> Scan:
    """GBK from Excel, or UTF-8 of which some lines are damaged: the lines that are valid tell."""
    foreign = bad = total = first = 0
    with open(path, "rb") as handle:
        for line in iter(lambda: handle.readline(LONGEST), b""):
            total += 1
            if line.isascii():
                continue
            try:
                line.decode()
                foreign += 1
            except UnicodeDecodeError:
                bad += 1
                first = first or total
    if bad <= foreign:
        return Scan(sha256, damaged=True)
    if size <= WHOLE:
        text, problems = read_text(path)
        if text is not None:
            at = Location(str(path), first)
            return Scan(sha256, "gb18030", problems=tuple(replace(p, where=at) for p in problems))
    if bad * 2 < total:
        return Scan(sha256, damaged=True)
    return Scan(sha256, None, problems=(Problem("LS2010", {"file": path.name}, Location(str(path), first)),))


def lines(path: Path, found: Scan) -> Iterator[tuple[int, str]]:
    """Each physical line with its number, from 1, without its end. Damaged bytes are lone surrogates; of a
    line beyond ``LONGEST`` characters comes the beginning."""
    assert found.encoding is not None
    errors = "surrogateescape" if found.damaged else "strict"
    with open(path, encoding=found.encoding, errors=errors, newline=None) as handle:
        number, inside = 0, False
        for text in iter(lambda: handle.readline(LONGEST), ""):
            if not inside:
                number += 1
                yield number, text[:-1] if text.endswith("\n") else text
            inside = not text.endswith("\n")


def whole_text(path: Path, found: Scan) -> str:
    """The file's text with ``\\n`` at the end of every line."""
    assert found.encoding is not None
    errors = "surrogateescape" if found.damaged else "strict"
    return path.read_text(encoding=found.encoding, errors=errors)


def is_damaged(text: str) -> bool:
    """Whether a line of a damaged file holds bytes that could not be decoded."""
    if text.isascii():
        return False
    return any("\udc80" <= char <= "\udcff" for char in text)
