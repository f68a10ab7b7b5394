"""What a device says when it fails, as problems with a remedy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lora_scripts.core.problems import Problem, ProblemsError


@contextmanager
def translated() -> Iterator[None]:
    """Turns out-of-memory (LS3901) and a lost or broken device (LS7001) into ``ProblemsError``."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError:
        raise ProblemsError(Problem("LS3901")) from None
    except torch.AcceleratorError as error:
        reason = str(error).strip().splitlines()[0]
        raise ProblemsError(Problem("LS7001", {"reason": reason})) from None
