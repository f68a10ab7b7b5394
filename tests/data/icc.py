"""Small colour profiles, written by hand (ICC.1:2010): what Pillow itself cannot make."""

from __future__ import annotations

import struct

D50 = (0.9642, 1.0, 0.8249)


def _fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def _xyz(values: tuple[float, float, float]) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(_fixed(value) for value in values)


def _text(kind: bytes, text: bytes) -> bytes:
    if kind == b"desc":
        return b"desc\0\0\0\0" + struct.pack(">I", len(text) + 1) + text + b"\0" + bytes(78)
    return b"text\0\0\0\0" + text + b"\0"


def profile(kind: bytes, space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    tags = {
        b"desc": _text(b"desc", b"test"),
        b"cprt": _text(b"text", b"none"),
        b"wtpt": _xyz(D50),
        **tags,
    }
    place = 128 + 4 + 12 * len(tags)
    table, data = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        table += name + struct.pack(">II", place + len(data), len(content))
        data += content
    size = 128 + len(table) + len(data)
    head = struct.pack(">I4sI4s4s4s", size, b"lcms", 0x02400000, kind, space, connection)
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    head += b"".join(_fixed(value) for value in D50)
    return head + bytes(128 - len(head)) + table + data


def grey(gamma: float) -> bytes:
    """Grey whose light is ``value ** gamma``."""
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))
    return profile(b"mntr", b"GRAY", b"XYZ ", {b"kTRC": curve + b"\0\0"})


def inks(first: tuple[int, int, int]) -> bytes:
    """CMYK whose full first ink looks like ``first`` (8-bit L*a*b*), the fourth black, the others nothing."""
    paper, black = (255, 128, 128), (0, 128, 128)
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0])
    table += b"".join(_fixed(float(row == column)) for row in range(3) for column in range(3))
    table += bytes(range(256)) * 4
    for corner in range(16):
        table += bytes(black if corner & 1 else first if corner & 8 else paper)
    table += bytes(range(256)) * 3
    return profile(b"prtr", b"CMYK", b"Lab ", {b"A2B0": table})
