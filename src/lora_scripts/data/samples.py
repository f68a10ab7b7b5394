"""The samples of a run as columns: a hundred thousand of them are a few arrays, and one is made when it is
asked for."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import overload

import numpy as np

from .buckets import Bucket, Placements, place
from .images import Examined
from .manifest import Example
from .masks import Mask
from .pixels import Picture
from .sample import AS_IT_IS, Handling, Sample


@dataclass(frozen=True)
class _Part:
    """One data set in one size: ``order``, (n,) positions in ``pictures`` by their names, and what is known
    of each in that order."""

    pictures: Examined
    order: np.ndarray
    placements: Placements
    repeats: np.ndarray
    handling: Handling
    masks: Mapping[str, Mask]
    size: int

    def sample(self, row: int, repeat: int) -> Sample:
        example, picture = self.pictures[self.order[row]]
        return Sample(
            example,
            picture,
            self.placements[row],
            self.handling.wording.plain(str(example.fields["caption"])),
            self.handling,
            self.masks.get(str(example.fields["name"])),
            repeat=repeat,
            repeats=int(self.repeats[row]),
            size=self.size,
        )

    def mask_of(self) -> np.ndarray:
        """(n,) bytes: kind and SHA-256 of each one's mask, nothing where it has none."""
        if not self.masks:
            return np.zeros(len(self.order), "S1")
        found = (self.masks.get(self.pictures.name(place)) for place in self.order)
        return np.array([f"{mask.kind}{mask.sha256}" if mask else "" for mask in found], "S69")

    def fixed(self) -> _Part:
        handling = replace(self.handling, fixed=True)
        return replace(self, handling=handling, repeats=np.ones_like(self.repeats))


class Samples(Sequence[Sample]):
    """Samples of one or several data sets. Arrays that it gives have a row for each of its samples."""

    def __init__(
        self, parts: Sequence[_Part] = (), which: np.ndarray | None = None, repeat: np.ndarray | None = None
    ) -> None:
        self._parts = tuple(parts)
        self._starts = [*accumulate((len(part.order) for part in parts), initial=0)]
        self._which = np.arange(self._starts[-1], dtype=np.int32) if which is None else which
        """The row of each sample, counted through all parts."""
        self._repeat = np.zeros(len(self._which), np.int32) if repeat is None else repeat

    @classmethod
    def joined(cls, several: Iterable[Samples]) -> Samples:
        """All of ``several``, one after another."""
        all_ = list(several)
        starts = accumulate((each._starts[-1] for each in all_), initial=0)
        return cls(
            [part for each in all_ for part in each._parts],
            _joined([each._which + np.int32(start) for each, start in zip(all_, starts, strict=False)]),
            _joined([each._repeat for each in all_]),
        )

    def __len__(self) -> int:
        return len(self._which)

    @overload
    def __getitem__(self, number: int) -> Sample: ...

    @overload
    def __getitem__(self, number: slice | np.ndarray) -> Samples: ...

    def __getitem__(self, number: int | slice | np.ndarray) -> Sample | Samples:
        """One of them; or those of a slice, of positions or of a mask."""
        if isinstance(number, slice | np.ndarray):
            return Samples(self._parts, self._which[number], self._repeat[number])
        row = int(self._which[number])
        part = bisect_right(self._starts, row) - 1
        return self._parts[part].sample(row - self._starts[part], int(self._repeat[number]))

    def _column(self, of: Callable[[_Part], np.ndarray]) -> np.ndarray:
        return _joined([of(part) for part in self._parts])[self._which]

    def _places(self) -> Iterator[tuple[_Part, int]]:
        """Each sample's part and the place of its picture there."""
        for row in self._which:
            part = bisect_right(self._starts, row) - 1
            yield self._parts[part], self._parts[part].order[row - self._starts[part]]

    def paths(self) -> Iterator[Path]:
        """The picture's file of each."""
        return (part.pictures.path(place) for part, place in self._places())

    def names(self) -> Iterator[str]:
        return (f"{part.handling.part}{part.pictures.name(place)}" for part, place in self._places())

    def captions(self) -> Iterator[tuple[str, Handling]]:
        """The caption of each as it is written, and what is done to it."""
        return ((part.pictures.caption(place), part.handling) for part, place in self._places())

    @property
    def hashes(self) -> np.ndarray:
        """SHA-256 of the pictures' files, to be compared and sorted by."""
        return self._column(lambda part: part.pictures.hashes[part.order])

    @property
    def masks(self) -> np.ndarray:
        """What mask each has, to be compared; empty where it has none."""
        return self._column(_Part.mask_of)

    @property
    def sizes(self) -> np.ndarray:
        """Which of several resolutions."""
        return self._column(lambda part: np.full(len(part.order), part.size))

    @property
    def mirrored(self) -> np.ndarray:
        """Which are learnt from both sides."""
        return self._column(
            lambda part: np.full(len(part.order), part.handling.flips and not part.handling.fixed)
        )

    @property
    def repeated(self) -> np.ndarray:
        """Which of its times in an epoch."""
        return self._repeat

    @property
    def regularization(self) -> np.ndarray:
        return self._column(lambda part: np.full(len(part.order), part.handling.regularization))

    @property
    def placements(self) -> np.ndarray:
        """(n, 6) int32, as in ``buckets.Placements``."""
        return self._column(lambda part: part.placements.kinds[part.placements.which]).reshape(-1, 6)

    @property
    def enlarged(self) -> np.ndarray:
        """How many times as wide as its file each picture becomes."""
        return self.placements[:, 2] / self._column(lambda part: part.pictures.sizes[part.order, 0])

    @property
    def lost(self) -> np.ndarray:
        """Share of each picture's area that its cut leaves out, 0 to 1."""
        placed = self.placements.astype(np.int64)
        return 1 - (placed[:, 0] * placed[:, 1]) / (placed[:, 2] * placed[:, 3])

    @property
    def spare(self) -> np.ndarray:
        """Pixels by which each cut can move, across and down together."""
        return (self.placements[:, 2:4] - self.placements[:, :2]).sum(axis=1)

    def buckets(self) -> tuple[list[Bucket], np.ndarray]:
        """The different shapes in the order in which they come, and the number of each sample's."""
        placed = self.placements.astype(np.int64)
        shapes, first, which = np.unique(
            placed[:, 0] << 32 | placed[:, 1], return_index=True, return_inverse=True
        )
        order = np.argsort(first)
        found = [Bucket(int(shapes[each] >> 32), int(shapes[each] & 0xFFFFFFFF)) for each in order]
        return found, np.argsort(order).astype(np.int32)[which]

    @property
    def handlings(self) -> list[Handling]:
        """The different ones of its data sets."""
        used = np.unique(np.searchsorted(self._starts, self._which, side="right") - 1)
        return list(dict.fromkeys(self._parts[part].handling for part in used))

    def for_an_epoch(self) -> Samples:
        """Each sample as often as it comes in an epoch, its times one after another."""
        times = self._column(lambda part: part.repeats)
        ends = np.cumsum(times)
        repeat = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - times, times)
        return Samples(self._parts, np.repeat(self._which, times), repeat.astype(np.int32))

    def once(self) -> Samples:
        """Those that stand for the first of a picture's times in an epoch."""
        return self[self._repeat == 0]

    def held_out(self) -> Samples:
        """These samples as validation sees them: always in the same form."""
        return Samples([part.fixed() for part in self._parts], self._which, self._repeat)


def _joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(arrays) if arrays else np.zeros(0, np.int32)


def samples_of(
    pictures: Sequence[tuple[Example, Picture]],
    *,
    resolution: int,
    step: int,
    upscale: bool = True,
    handling: Handling = AS_IT_IS,
    masks: Mapping[str, Mask] | None = None,
    repeats: int = 1,
    size: int = 0,
) -> Samples:
    """A sample for each picture, ordered by name, so that the order of rows in a CSV changes nothing.

    ``repeats``: of pictures whose folder does not say it.
    """
    given = pictures if isinstance(pictures, Examined) else Examined.of(pictures)
    names = [given.name(place) for place in range(len(given))]
    order = np.array(sorted(range(len(names)), key=names.__getitem__), np.int32)
    placements = place(given.sizes[order], resolution=resolution, step=step, upscale=upscale)
    times = given.repeats()[order]
    times[times == 0] = repeats
    return Samples([_Part(given, order, placements, times, handling, masks or {}, size)])
