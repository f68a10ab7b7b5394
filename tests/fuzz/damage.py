"""What happens to bytes on disks, in downloads and in editors, whatever they mean."""

from __future__ import annotations

import random
from collections.abc import Sequence

SPICE = (
    b'"', b"'", b",", b"{", b"}", b"[", b"]", b":", b"\\", b"\n", b"\r", b"\r\n", b"\t", b"\0", b"\xff",
    b"\xfe\xff", b"\xe4\xbd", b"\xed\xa0\x80", b"\x1b[31m", b"\xef\xbb\xbf", "，".encode(), "：".encode(),
    "\u2028".encode(), b"<!--", b"#", b"&a ", b"*a", b"!!", b"---\n", b"NaN", b"1e999", b"-", b"%", b"null",
)  # fmt: skip
ENCODINGS = (
    "gbk",
    "gb18030",
    "big5",
    "shift_jis",
    "utf-16",
    "utf-16-le",
    "utf-8-sig",
    "latin-1",
    "cp1252",
    "utf-32",
)


def mutated(data: bytes, chance: random.Random, spice: Sequence[bytes] = SPICE) -> bytes:
    """One to five places overwritten, cut out or filled in."""
    for _ in range(chance.choice((1, 1, 2, 5))):
        at = chance.randrange(len(data) + 1)
        size = chance.choice((0, 1, 1, 3, 40))
        new = chance.choice(
            (b"", bytes([chance.randrange(256)]), chance.choice(spice), data[: chance.randrange(60)])
        )
        data = data[:at] + new + data[at + size :]
    return data


def flipped(data: bytes, chance: random.Random, count: int = 0) -> bytes:
    """Single bits turned over."""
    broken = bytearray(data)
    for _ in range(count or chance.choice((1, 1, 3, 20))):
        if broken:
            broken[chance.randrange(len(broken))] ^= 1 << chance.randrange(8)
    return bytes(broken)


def zeroed(data: bytes, chance: random.Random) -> bytes:
    """A stretch of nothing, as a broken copy leaves it."""
    size = chance.choice((16, 64, 200, 512))
    at = chance.randrange(max(1, len(data) - size))
    return data[:at] + bytes(min(size, len(data) - at)) + data[at + size :]


def cut(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data) + 1)]


def spliced(first: bytes, second: bytes, chance: random.Random) -> bytes:
    """The start of one file and the end of another."""
    return first[: chance.randrange(len(first) + 1)] + second[chance.randrange(len(second) + 1) :]


def noise(chance: random.Random) -> bytes:
    return chance.randbytes(chance.choice((0, 1, 7, 8, 9, 64, 1000)))


def anyhow(data: bytes, other: bytes, chance: random.Random) -> tuple[bytes, str]:
    """Some kind of damage, and its name."""
    way = chance.choice(("mutated", "mutated", "flipped", "zeroed", "cut", "spliced", "noise"))
    made = {
        "mutated": lambda: mutated(data, chance),
        "flipped": lambda: flipped(data, chance),
        "zeroed": lambda: zeroed(data, chance),
        "cut": lambda: cut(data, chance),
        "spliced": lambda: spliced(data, other, chance),
        "noise": lambda: noise(chance),
    }
    return made[way](), way


def saved_as(text: str, encoding: str) -> bytes:
    """As an editor saves it that is set to another encoding."""
    return text.encode(encoding, "replace")
