"""Every picture of a data set decoded once before training, and all bad ones named at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from PIL import Image

from ..core.problems import Location, Problem, Severity
from .manifest import Example
from .pixels import BadPicture, Picture, open_picture
from .text_files import listing

Progress = Callable[[int, int], None]
Visit = Callable[[int, Image.Image], None]
_NOTES: dict[str, Severity] = {"LS2061": "note", "LS2062": "warning", "LS2063": "note", "LS2410": "warning"}
_BATCH = 256


def decode(path: Path, *, background: str = "white") -> Image.Image:
    """The picture upright in RGB, as ``pixels.open_picture`` says; raises ``BadPicture``."""
    return open_picture(path, background=background)[0]


def _look(path: Path, background: str, number: int, visit: Visit | None) -> Picture | Problem:
    try:
        image, picture = open_picture(path, background=background)
    except BadPicture as bad:
        return bad.problem
    if visit is not None:
        visit(number, image)
    return picture


def examine(
    examples: Sequence[Example],
    *,
    background: str = "white",
    on_bad: Literal["stop", "skip"] = "stop",
    on_animation: Literal["first", "skip"] = "first",
    progress: Progress | None = None,
    visit: Visit | None = None,
) -> tuple[list[tuple[Example, Picture]], list[Problem]]:
    """The usable pictures in the order of ``examples``, and what is wrong with the others.

    Each bad picture is one problem: an error, or with ``on_bad="skip"`` a warning. With
    ``on_animation="skip"`` animations are left out and named. Nothing is written; memory
    does not grow with the number of pictures. ``progress`` gets (done, total) in the calling thread;
    ``visit`` gets the position in ``examples`` and the pixels of each usable picture, in several threads.
    """
    good: list[tuple[Example, Picture]] = []
    problems: list[Problem] = []
    moving: list[Path] = []
    done = 0
    pool = ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1), thread_name_prefix="decode")
    try:
        for start in range(0, len(examples), _BATCH):
            part = examples[start : start + _BATCH]
            paths = [example.fields["image"] for example in part]
            numbers = range(start, start + len(part))
            same = ([background] * len(part), numbers, [visit] * len(part))
            for example, result in zip(part, pool.map(_look, paths, *same), strict=True):
                if isinstance(result, Picture):
                    if on_animation == "skip" and "LS2062" in result.notes:
                        moving.append(result.path)
                    else:
                        good.append((example, result))
                else:
                    severity: Severity = "error" if on_bad == "stop" else "warning"
                    problems.append(Problem(result.code, result.params, result.where, severity))
                done += 1
                if progress is not None:
                    progress(done, len(examples))
    finally:
        # Ctrl-C, or a progress that raises, waits for the pictures in hand and not for the whole batch.
        pool.shutdown(cancel_futures=True)
    if moving:
        params = {"count": len(moving), "names": listing([path.name for path in moving])}
        problems.append(Problem("LS2411", params, Location(str(moving[0].parent)), "warning"))
    if examples and not good:
        params = {"count": len(examples)}
        problems.append(Problem("LS2060", params, Location(str(examples[0].fields["image"].parent))))
    return good, problems + _notes(good)


def _notes(good: Iterable[tuple[Example, Picture]]) -> list[Problem]:
    named: dict[str, list[Path]] = {}
    same: dict[str, list[Example]] = {}
    for example, picture in good:
        same.setdefault(picture.sha256, []).append(example)
        for code in picture.notes:
            named.setdefault(code, []).append(picture.path)
    found = [
        Problem(
            code,
            {"count": len(named[code]), "names": listing([path.name for path in named[code]])},
            Location(str(named[code][0].parent)),
            severity,
        )
        for code, severity in _NOTES.items()
        if code in named
    ]
    twins = [each for each in same.values() if len(each) > 1]
    if twins:
        names = [" = ".join(str(example.fields["name"]) for example in each) for each in twins]
        told = {"count": len(twins), "names": listing(names)}
        place = Location(str(twins[0][0].fields["image"].parent))
        found.append(Problem("LS2066", told, place, "warning"))
    return found


__all__ = ["BadPicture", "Picture", "decode", "examine"]
