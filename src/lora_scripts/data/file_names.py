"""File names that do not survive a copy to another computer."""

from __future__ import annotations

import os

from .folder import loose_name

_DEVICES = frozenset(
    {"con", "prn", "aux", "nul", *(f"{kind}{number}" for kind in ("com", "lpt") for number in range(1, 10))}
)
_FORBIDDEN = frozenset('<>:"|?*\\')
LONGEST = 259
"""Characters in a path that Windows takes without a setting of its own (MAX_PATH less the end mark)."""


def is_foreign_to_windows(name: str) -> bool:
    """Whether Windows refuses or changes ``name`` (relative, with ``/``): ``con.png``, ``a./b.png``,
    ``what?.png``."""
    for part in name.split("/"):
        stem = loose_name(part.split(".")[0]).rstrip()
        if stem in _DEVICES or part.endswith((".", " ")) or _FORBIDDEN & set(part):
            return True
    return False


def is_too_long(folder: str, name: str) -> bool:
    """Whether the whole path of ``name`` in ``folder``, which is absolute, is longer than Windows takes."""
    return len(folder.rstrip(os.sep)) + 1 + len(name) > LONGEST
