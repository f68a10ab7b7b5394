"""JPEGs that decode without an error and are damaged all the same.

A decoder fills what is missing with grey, and reads a stretch of zeros, which a broken copy leaves in the
middle of a file, as if it were picture data. Both are told from what an intact picture can hold.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
from PIL import Image

FILL, CLOSE = 128, 1
"""What decoders put where data is missing, and how far rounding may carry it."""
ROWS = 8
"""Height of a block: less than one cannot be missing."""
ZEROS = re.compile(rb"\x00{32,}")
"""As many zero bits as no row of coefficients is written with."""
_BASELINE = (0xC0, 0xC1)
_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
_RESTARTS = range(0xD0, 0xD8)


def has_grey_tail(image: Image.Image) -> bool:
    """Whether the end of an RGB picture, as decoders write it (left to right, downwards), is plain grey and
    its beginning is not."""
    width, height = image.size
    if height < 2 * ROWS:
        return False
    end = _share_of_grey(image.crop((width // 2, height - ROWS, width, height)))
    return end == 1 and _share_of_grey(image.crop((0, 0, width, ROWS))) < 0.5


def _share_of_grey(image: Image.Image) -> float:
    pixels = np.asarray(image.convert("RGB")).astype(np.int16)
    return float((np.abs(pixels - FILL) <= CLOSE).all(axis=2).mean())


def has_zeroed_data(data: bytes) -> bool:
    """Whether the picture data of a baseline JPEG holds a run of zeros that its own codes rule out.

    Where the shortest codes mean "as before" and "nothing more in this block", zeros are an even area and no
    damage; else they are coefficients that no picture has. Progressive files mix many tables and are not
    judged so: see ``lacks_scans``.
    """
    shortest: dict[int, int] = {}
    baseline = False
    for marker, part in _segments(data):
        if marker in _BASELINE:
            baseline = True
        elif marker == 0xC4:
            shortest |= _first_symbols(part)
        elif marker == 0xDA and baseline and ZEROS.search(part):
            even = all(symbol == 0 for symbol in shortest.values())
            if shortest and not even:
                return True
    return False


def lacks_scans(data: bytes) -> bool:
    """Whether a progressive JPEG ends before its last scans: it decodes as a picture without its fine detail.

    Every coefficient of every component has to have come down to its last bit (ITU-T T.81, annex G: a scan
    names a band of coefficients and the bit, ``Al``, down to which it tells them).
    """
    wanted: set[int] = set()
    told: dict[int, set[int]] = {}
    for marker, part in _segments(data, headers=True):
        if marker in _PROGRESSIVE and len(part) >= 6:
            wanted = set(part[6 : 6 + 3 * part[5] : 3])
        elif marker == 0xDA and part and len(part) >= 4 + 2 * part[0]:
            first, last, bits = part[1 + 2 * part[0] : 4 + 2 * part[0]]
            if bits & 15 == 0:
                for component in part[1 : 1 + 2 * part[0] : 2]:
                    told.setdefault(component, set()).update(range(first, last + 1))
    whole = set(range(64))
    return any(not whole <= told.get(component, set()) for component in wanted)


def _segments(data: bytes, *, headers: bool = False) -> Iterator[tuple[int, bytes]]:
    """Marker and content of each segment (ITU-T T.81, annex B); of a scan its entropy-coded data or, with
    ``headers``, what comes before that."""
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF:
            place += 1
            continue
        length = int.from_bytes(data[place + 2 : place + 4], "big")
        end = place + 2 + length
        if marker == 0xDA:
            header, start, end = data[place + 4 : end], end, _end_of_scan(data, end)
            yield marker, header if headers else data[start:end]
        else:
            yield marker, data[place + 4 : end]
        place = end


def _end_of_scan(data: bytes, place: int) -> int:
    while 0 <= (place := data.find(b"\xff", place)) < len(data) - 1:
        if data[place + 1] and data[place + 1] not in _RESTARTS:
            return place
        place += 2
    return len(data)


def _first_symbols(tables: bytes) -> dict[int, int]:
    """Class and number of each Huffman table -> the symbol that its all-zero code stands for (annex C)."""
    found = {}
    place = 0
    while place + 17 <= len(tables):
        count = sum(tables[place + 1 : place + 17])
        if count and place + 17 < len(tables):
            found[tables[place]] = tables[place + 17]
        place += 17 + count
    return found
