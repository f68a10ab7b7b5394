"""What a device says when it fails, as problems with a remedy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lora_scripts.core.problems import Problem, ProblemsError

GONE = ("Connection closed by peer", "Connection reset by peer")
"""What is said to a process when another one of the same run is gone."""
FULL = ("DefaultCPUAllocator: can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "backend out of memory")
"""What is said for want of memory by those who have no exception of its own for it."""
LOST = ("CUDA error", "CUDA driver error", "CUDA unknown error", "No CUDA GPUs are available",
        "CUBLAS_STATUS_EXECUTION_FAILED", "CUBLAS_STATUS_INTERNAL_ERROR",
        "CUDNN_STATUS_EXECUTION_FAILED", "CUDNN_STATUS_INTERNAL_ERROR")  # fmt: skip
"""What libraries say in place of ``torch.AcceleratorError`` when the card is gone."""


class NoMemoryError(ProblemsError):
    """LS3901, raised by all processes of a run at the same window, whichever of them lacks the memory."""

    def __init__(self) -> None:
        super().__init__(Problem("LS3901"))


class UnreadableError(ProblemsError):
    """LS3903: the examples of a window cannot be read. Nothing of it has been learnt yet."""


def is_out_of_memory(error: BaseException) -> bool:
    import torch

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in FULL)


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
    except (MemoryError, RuntimeError) as error:
        said = str(error)
        if is_out_of_memory(error):
            raise ProblemsError(Problem("LS3901")) from None
        if isinstance(error, torch.AcceleratorError) or any(sign in said for sign in LOST):
            reason = (said.strip().splitlines() or [type(error).__name__])[0]
            raise ProblemsError(Problem("LS7001", {"reason": reason})) from None
        if any(sign in said for sign in GONE):
            raise ProblemsError(Problem("LS7002", {"rank": "?", "code": "?"})) from None
        raise
