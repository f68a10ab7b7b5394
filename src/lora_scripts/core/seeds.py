"""Seeds that depend on what is drawn and for whom, never on the order of drawing."""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, *parts: int | str) -> int:
    """A 63-bit seed for one purpose, for example ``derive_seed(seed, "noise", epoch, example)``."""
    text = "\x1f".join(str(part) for part in (seed, *parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
