"""What the C library keeps for itself of the memory that training gives back.

glibc keeps freed memory in holes between what is still in use, and PyTorch asks it for aligned blocks: of
each it cuts a few bytes off and keeps them in lists for small requests, so that the hole which a tensor
leaves is a little too small for the next tensor of its size. A pass through a model leaves many: of the 2.6
GB that the training of a small language model took, 0.5 were holes. Elsewhere than on Linux with glibc
nothing is changed.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from typing import Any

SMALL_LISTS = 1
"""``M_MXFAST`` of glibc's ``mallopt``: the largest block that is kept in a list instead of joined with its
neighbours."""


def prepare() -> None:
    """Asks for whole pages for each large tensor, which leave no such rests and may be large ones, and for
    freed blocks to be joined. PyTorch reads the first when it allocates first: it comes before that."""
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    if (library := _glibc()) is not None:
        library.mallopt(SMALL_LISTS, 0)


def give_back() -> None:
    """Gives the system what is free: loading a model leaves holes in which no activation fits."""
    if (library := _glibc()) is not None:
        library.malloc_trim(0)


@cache
def _glibc() -> Any:
    if sys.platform != "linux":
        return None
    import ctypes

    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None
