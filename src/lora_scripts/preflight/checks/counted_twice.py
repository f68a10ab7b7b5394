"""Pictures that several data sets hold, since one of their folders lies inside another."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache

from ...core.problems import Location, Problem
from ...data.columns import Known
from ...data.samples import Samples
from ...data.text_files import listing
from .picture_sets import PictureSet


def counted_twice(sets: Sequence[PictureSet], read: Sequence[Samples]) -> list[Problem]:
    """A warning (LS2490) for each two sets that share files, with both places; ``read``: each set's samples.

    Names are compared as files, links followed, so that a folder reached by two ways is found, and one whose
    table leaves the inner pictures out is not.
    """
    if len(sets) < 2:
        return []
    home = lru_cache(maxsize=None)(os.path.realpath)
    held = [Known(os.path.join(home(path.parent), path.name) for path in samples.paths()) for samples in read]
    problems = []
    for later, second in enumerate(sets):
        for earlier in range(later):
            shared = {path for path in held[later] if path in held[earlier]}
            if not shared:
                continue
            names = {
                each.name
                for each in read[later]
                if os.path.join(home(each.picture.path.parent), each.picture.path.name) in shared
            }
            told = {
                "first": str(sets[earlier].folder),
                "second": str(second.folder),
                "count": len(shared),
                "names": listing(sorted(names)),
            }
            problems.append(Problem("LS2490", told, Location(str(second.folder)), "warning"))
    return problems
