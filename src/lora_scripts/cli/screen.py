"""The terminal or pipe that a command speaks to, which may be gone before the command is done."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterable
from typing import Any, TextIO, cast

GONE = (errno.EPIPE, errno.EIO)
"""Whoever read our output has left, as ``head`` does; the terminal is closed."""


class Patient:
    """A stream that falls silent when its reader leaves.

    What a command does is worth more than what it says: a run goes on, a check ends with what it found.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @property
    def buffer(self) -> Patient:
        return Patient(self._stream.buffer)

    def write(self, text: Any) -> int:
        try:
            return cast(int, self._stream.write(text))
        except OSError as error:
            self._let_go(error)
            return len(text)

    def writelines(self, lines: Iterable[Any]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._let_go(error)

    def _let_go(self, error: OSError) -> None:
        if error.errno not in GONE:
            raise error
        silence(self._stream)


def be_patient() -> None:
    """The process's own screens are ``Patient`` from now on."""
    if sys.stdout is sys.__stdout__ and sys.stdout is not None:
        sys.stdout = cast(TextIO, Patient(sys.stdout))
    if sys.stderr is sys.__stderr__ and sys.stderr is not None:
        sys.stderr = cast(TextIO, Patient(sys.stderr))


def silence(stream: TextIO) -> None:
    """What is said from now on, and what is still kept back to be written, goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
