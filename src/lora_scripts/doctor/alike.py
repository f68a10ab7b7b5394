"""Pictures that are there twice: the same bytes, copies in another size or quality, mirrored ones, crops."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..data.pixels import BadPicture, Picture, open_picture
from .registration import FINE, roughly, same
from .windows import Candidate, candidates

REMEMBERED = 2048
"""Pictures that are kept for comparing, 12 kB each."""
CUT = 0.87
"""Share of a side from which a part is no longer the same picture, slightly cut, but a crop of it."""
_BATCH = 512
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Alike:
    """Positions of pictures. ``copies``: groups, largest picture first; ``mirrored`` and ``crops``: pairs, of
    which the first is the whole picture, with the share of its area that the second shows."""

    copies: tuple[tuple[int, ...], ...] = ()
    mirrored: tuple[tuple[int, int], ...] = ()
    crops: tuple[tuple[int, int, float], ...] = ()


class _Groups:
    """Union-find over positions."""

    def __init__(self, count: int) -> None:
        self._above = list(range(count))

    def top(self, place: int) -> int:
        while self._above[place] != place:
            self._above[place] = self._above[self._above[place]]
            place = self._above[place]
        return place

    def join(self, one: int, other: int) -> None:
        self._above[self.top(one)] = self.top(other)

    def several(self) -> list[list[int]]:
        members: dict[int, list[int]] = {}
        for place in range(len(self._above)):
            members.setdefault(self.top(place), []).append(place)
        return [places for places in members.values() if len(places) > 1]


class _Closely:
    """Opens pictures again, small and in colour, and remembers the last ones."""

    def __init__(self, pictures: Sequence[Picture], background: str) -> None:
        self._pictures, self._background = pictures, background
        self._kept: OrderedDict[int, Image.Image | None] = OrderedDict()

    def _small(self, place: int) -> Image.Image | None:
        if place in self._kept:
            self._kept.move_to_end(place)
            return self._kept[place]
        try:
            image = open_picture(self._pictures[place].path, background=self._background)[0]
            small: Image.Image | None = image.resize((2 * FINE, 2 * FINE), Image.Resampling.BILINEAR)
        except BadPicture:  # it was there a minute ago
            small = None
        self._kept[place] = small
        if len(self._kept) > REMEMBERED:
            self._kept.popitem(last=False)
        return small

    def fit(self, pair: Candidate, rough: np.ndarray) -> np.ndarray | None:
        """Where ``part`` lies in ``whole``, or None where they are two pictures."""
        one, two = self._small(pair.whole), self._small(pair.part)
        if one is None or two is None:
            return None
        if pair.mirrored:
            two = two.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        box = [_around(float(rough[axis]), float(rough[axis + 1])) for axis in (0, 2)]
        middle, half = np.array([(low + high) / 2 for low, high in box]), np.diff(box)[:, 0] / 2
        whole, part = self._pictures[pair.whole], self._pictures[pair.part]
        sides = (whole.width * half[0], whole.height * half[1], part.width, part.height)
        side = max(24, min(FINE, *(int(length) for length in sides)))
        (left, right), (top, bottom) = (((low + 1) * FINE, (high + 1) * FINE) for low, high in box)
        first = one.resize((side, side), Image.Resampling.BILINEAR, box=(left, top, right, bottom))
        second = two.resize((side, side), Image.Resampling.BILINEAR)
        near = rough.copy()
        near[[0, 2]] /= half
        near[[1, 3]] = (near[[1, 3]] - middle) / half
        fit = same(np.asarray(first), np.asarray(second), near)
        if fit is not None:
            fit[[0, 2]] *= half
            fit[[1, 3]] = fit[[1, 3]] * half + middle
        return fit


def _around(scale: float, shift: float) -> tuple[float, float]:
    """The stretch of the whole picture that is compared: a part of it closely, else all."""
    if scale >= CUT:
        return -1.0, 1.0
    room = scale * 0.1
    return max(-1.0, shift - scale - room), min(1.0, shift + scale + room)


def find_alike(
    pictures: Sequence[Picture],
    grey: np.ndarray,
    *,
    background: str = "white",
    crops: bool = False,
    progress: Progress | None = None,
) -> Alike:
    """Groups and pairs among ``pictures``, whose grey copies are ``grey`` (n, SIDE, SIDE) uint8.

    Exact copies are told by their bytes; of them the first is compared with the others. ``crops``: also
    pictures that show down to half of each side of another. Files are opened a second time only where the
    small copies agree. ``progress`` gets (phase, done, total).
    """
    groups = _Groups(len(pictures))
    first: dict[str, int] = {}
    for place, picture in enumerate(pictures):
        groups.join(place, first.setdefault(picture.sha256, place))
    kept = list(first.values())
    chosen = [pictures[place] for place in kept]
    small = grey[kept]
    aspects = np.array([picture.width / picture.height for picture in chosen])
    closely = _Closely(chosen, background)
    mirrored: dict[tuple[int, int], None] = {}
    cut: dict[tuple[int, int], float] = {}

    def judge(deep: bool, phase: str) -> None:
        tell = (lambda done, total: progress(phase, done, total)) if progress else None
        for found in candidates(small, aspects, deep=deep, progress=tell):
            for start in range(0, len(found), _BATCH):
                part = found[start : start + _BATCH]
                for pair, rough in _worth(part, small, deep):
                    one, other = kept[pair.whole], kept[pair.part]
                    if groups.top(one) == groups.top(other) or (one, other) in cut:
                        continue
                    fit = closely.fit(pair, rough)
                    if fit is None:
                        continue
                    if pair.mirrored:
                        mirrored[one, other] = None
                    elif min(abs(fit[0]), abs(fit[2])) >= CUT:
                        groups.join(one, other)
                    elif deep:
                        cut[one, other] = float(fit[0] * fit[2])

    judge(False, "alike")
    if crops:
        judge(True, "crops")
    return Alike(
        tuple(_largest_first(places, pictures) for places in groups.several()),
        tuple(pair for pair in mirrored if groups.top(pair[0]) != groups.top(pair[1])),
        tuple((one, other, share) for (one, other), share in cut.items()),
    )


def _worth(part: list[Candidate], small: np.ndarray, deep: bool) -> list[tuple[Candidate, np.ndarray]]:
    one = small[[pair.whole for pair in part]]
    two = small[[pair.part for pair in part]].copy()
    turned = np.array([pair.mirrored for pair in part])
    two[turned] = two[turned][:, :, ::-1]
    fits, good = roughly(one, two, np.array([pair.start for pair in part], dtype=np.float32), parts=deep)
    return [(pair, fit) for pair, fit, fine in zip(part, fits, good, strict=True) if fine]


def _largest_first(places: list[int], pictures: Sequence[Picture]) -> tuple[int, ...]:
    return tuple(sorted(places, key=lambda place: (-pictures[place].width * pictures[place].height, place)))
