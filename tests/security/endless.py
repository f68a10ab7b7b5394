"""A test of what must come to an end fails, instead of hanging, where it does not."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

PATIENCE = 60
"""Seconds: far more than anything here takes."""


@contextlib.contextmanager
def must_end() -> Iterator[None]:
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def late(*given: object) -> None:
        raise AssertionError("it goes on without end")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
