"""What a device says when it fails, as problems with a remedy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lora_scripts.core.problems import Problem, ProblemsError

GONE = ("Connection closed by peer", "Connection reset by peer")
"""What is said to a process when another one of the same run is gone."""


@contextmanager
def disk_failures(folder: Path) -> Iterator[None]:
    """Turns what the disk refuses into ``ProblemsError`` LS3950, naming the file or else ``folder``."""
    try:
        yield
    except ConnectionError:  # a closed pipe, a hub: no disk
        raise
    except OSError as error:
        if error.errno is None and not isinstance(error, FileNotFoundError):  # a picture that is none
            raise
        path, reason = error.filename or folder, error.strerror or str(error)
        raise ProblemsError(Problem("LS3950", {"path": str(path), "reason": reason})) from error


@contextmanager
def translated() -> Iterator[None]:
    """Turns out-of-memory (LS3901), a lost device (LS7001) and a lost process (LS7002) into
    ``ProblemsError``."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError:
        raise ProblemsError(Problem("LS3901")) from None
    except torch.AcceleratorError as error:
        reason = str(error).strip().splitlines()[0]
        raise ProblemsError(Problem("LS7001", {"reason": reason})) from None
    except RuntimeError as error:
        if not any(sign in str(error) for sign in GONE):
            raise
        raise ProblemsError(Problem("LS7002", {"rank": "?", "code": "?"})) from None
