"""Folders called ``10_sks dog``: how often their pictures come, and what they show where no file says it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from .captions import clean

_NAME = re.compile(r"^(\d{1,3})_(.*\S.*)$", re.DOTALL)
"""Up to three digits: ``2024_holiday`` is a year and no number of repeats."""


@dataclass(frozen=True)
class Counted:
    """``repeats`` times an epoch; ``words`` are the caption of pictures that have none of their own."""

    repeats: int
    words: str


def counted(folder: str) -> Counted | None:
    """What a folder's name says, or None where it is no ``<number>_<words>``; 0 repeats are none."""
    found = _NAME.match(folder)
    if not found or not int(found[1]):
        return None
    return Counted(int(found[1]), clean(found[2]))


def is_counted(pictures: Iterable[str]) -> bool:
    """Whether a data folder with these ``pictures`` (relative names) has a sub-folder of that kind."""
    return any("/" in name and counted(name.partition("/")[0]) for name in pictures)
