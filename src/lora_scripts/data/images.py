"""Every picture of a data set decoded once before training, and all bad ones named at once."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, overload

import numpy as np
from PIL import Image

from ..core.problems import Location, Problem, Severity
from .manifest import Example, Examples
from .pixels import BadPicture, Picture, open_picture
from .text_files import SHOWN, listing

Progress = Callable[[int, int], None]
Visit = Callable[[int, Image.Image], None]
_NOTES: dict[str, Severity] = {"LS2061": "note", "LS2062": "warning", "LS2063": "note", "LS2410": "warning"}
_BATCH = 256


class Examined(Sequence[tuple[Example, Picture]]):
    """Usable pictures with their examples, kept as columns: a pair is made when it is asked for."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self._examples = examples
        self._numbers, self._sizes = array("i"), array("i")
        self._hashes = bytearray()
        self._kinds: dict[tuple[tuple[str, ...], bool], int] = {}
        self._kind = array("i")

    @classmethod
    def of(cls, pairs: Sequence[tuple[Example, Picture]]) -> Examined:
        found = cls([example for example, _ in pairs])
        for number, (_, picture) in enumerate(pairs):
            found.append(number, picture)
        return found

    def append(self, number: int, picture: Picture) -> None:
        """``picture`` is that of the example ``number``."""
        self._numbers.append(number)
        self._sizes.extend((picture.width, picture.height))
        self._hashes += bytes.fromhex(picture.sha256)
        kind = (picture.notes, picture.turned)
        self._kind.append(self._kinds.setdefault(kind, len(self._kinds)))

    @property
    def sizes(self) -> np.ndarray:
        """(n, 2) int32: width and height in pixels."""
        return np.array(self._sizes, np.int32).reshape(-1, 2)

    @property
    def hashes(self) -> np.ndarray:
        """(n,) 32 bytes each: SHA-256 of the files."""
        return np.frombuffer(bytes(self._hashes), "S32")

    def path(self, place: int) -> Path:
        """The picture's file."""
        return _image(self._examples, self._numbers[place])

    def name(self, place: int) -> str:
        """The picture's name inside its data folder."""
        given, number = self._examples, self._numbers[place]
        return given.names[number] if isinstance(given, Examples) else str(given[number].fields["name"])

    def caption(self, place: int) -> str:
        given, number = self._examples, self._numbers[place]
        return given.captions[number] if isinstance(given, Examples) else str(given[number].fields["caption"])

    def repeats(self) -> np.ndarray:
        """(n,) int32: how often each comes in an epoch, 0 where its folder does not say it."""
        given = self._examples
        if isinstance(given, Examples):
            return np.array(given.repeats, np.int32)[np.array(self._numbers, np.int32)]
        return np.array([given[each].fields.get("repeats", 0) for each in self._numbers], np.int32)

    def noted(self, code: str) -> np.ndarray:
        """Positions of the pictures with this note, ascending."""
        kinds = [number for (notes, _), number in self._kinds.items() if code in notes]
        return np.flatnonzero(np.isin(np.array(self._kind, np.int32), kinds))

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, place: int) -> tuple[Example, Picture]: ...

    @overload
    def __getitem__(self, place: slice) -> list[tuple[Example, Picture]]: ...

    def __getitem__(self, place: int | slice) -> tuple[Example, Picture] | list[tuple[Example, Picture]]:
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(len(self)))]
        place = range(len(self))[place]
        example = self._examples[self._numbers[place]]
        notes, turned = list(self._kinds)[self._kind[place]]
        width, height = self._sizes[2 * place : 2 * place + 2]
        sha256 = self._hashes[32 * place : 32 * place + 32].hex()
        return example, Picture(example.fields["image"], width, height, sha256, notes, turned)


def _image(examples: Sequence[Example], number: int) -> Path:
    if isinstance(examples, Examples):
        return examples.image(number)
    image: Path = examples[number].fields["image"]
    return image


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
) -> tuple[Examined, list[Problem]]:
    """The usable pictures in the order of ``examples``, and what is wrong with the others.

    Each bad picture is one problem: an error, or with ``on_bad="skip"`` a warning. With
    ``on_animation="skip"`` animations are left out and named. Nothing is written; memory
    does not grow with the number of pictures. ``progress`` gets (done, total) in the calling thread;
    ``visit`` gets the position in ``examples`` and the pixels of each usable picture, in several threads.
    """
    good = Examined(examples)
    problems: list[Problem] = []
    moving: list[Path] = []
    done = 0
    pool = ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1), thread_name_prefix="decode")
    try:
        for start in range(0, len(examples), _BATCH):
            numbers = range(len(examples))[start : start + _BATCH]
            paths = [_image(examples, number) for number in numbers]
            same = ([background] * len(paths), numbers, [visit] * len(paths))
            for number, result in zip(numbers, pool.map(_look, paths, *same), strict=True):
                if isinstance(result, Picture):
                    if on_animation == "skip" and "LS2062" in result.notes:
                        moving.append(result.path)
                    else:
                        good.append(number, result)
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


def _notes(good: Examined) -> list[Problem]:
    found = []
    for code, severity in _NOTES.items():
        places = good.noted(code)
        if len(places):
            paths = [good[place][1].path for place in places[: SHOWN + 1]]
            told = {"count": len(places), "names": listing([path.name for path in paths])}
            found.append(Problem(code, told, Location(str(paths[0].parent)), severity))
    twins = _twins(good.hashes)
    if twins:
        names = [" = ".join(good[place][0].fields["name"] for place in group) for group in twins[: SHOWN + 1]]
        told = {"count": len(twins), "names": listing(names)}
        place = Location(str(good[twins[0][0]][1].path.parent))
        found.append(Problem("LS2066", told, place, "warning"))
    return found


def _twins(hashes: np.ndarray) -> list[np.ndarray]:
    """Positions of equal files, a group each, in the order of their first ones."""
    order = np.argsort(hashes, kind="stable")
    same = (hashes[order][1:] == hashes[order][:-1]).astype(np.int8)
    edges = np.diff(same, prepend=0, append=0)
    runs = zip(np.flatnonzero(edges == 1), np.flatnonzero(edges == -1), strict=True)
    return sorted((order[first : last + 1] for first, last in runs), key=lambda group: int(group[0]))


__all__ = ["BadPicture", "Examined", "Picture", "decode", "examine"]
