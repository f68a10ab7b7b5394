"""Many short texts in a few arrays: each costs its letters and some numbers, not the objects of a list."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

_FREE = -1


class Texts(Sequence[str]):
    """Texts in the order in which they were appended: one buffer, and where each ends."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._letters = bytearray()
        self._ends = array("q")
        for text in texts:
            self.append(text)

    def append(self, text: str) -> None:
        # Names of files may hold what is no valid text: any string comes back as it was.
        self._letters += text.encode("utf-8", "surrogatepass")
        self._ends.append(len(self._letters))

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, number: int) -> str: ...

    @overload
    def __getitem__(self, number: slice) -> list[str]: ...

    def __getitem__(self, number: int | slice) -> str | list[str]:
        if isinstance(number, slice):
            return [self[each] for each in range(*number.indices(len(self)))]
        if number < 0:
            number += len(self._ends)
        end = self._ends[number]
        start = self._ends[number - 1] if number else 0
        return self._letters[start:end].decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        start = 0
        for end in self._ends:
            yield self._letters[start:end].decode("utf-8", "surrogatepass")
            start = end


class Known:
    """Different texts, each with the number that it came as: a dictionary in some thirty bytes beside the
    letters (open addressing, half of the slots free)."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._texts = Texts()
        self._hashes = array("q")
        self._slots = array("i", [_FREE]) * 16
        for text in texts:
            self.add(text)

    def _slot(self, text: str, mark: int) -> int:
        """Where ``text`` stands, or would."""
        last = len(self._slots) - 1
        place = mark & last
        while (number := self._slots[place]) != _FREE:
            if self._hashes[number] == mark and self._texts[number] == text:
                break
            place = (place + 1) & last
        return place

    def add(self, text: str) -> int:
        """The number of ``text``, which is ``len`` before the call if it is new."""
        mark = hash(text)
        place = self._slot(text, mark)
        number = self._slots[place]
        if number != _FREE:
            return number
        number = len(self._hashes)
        self._texts.append(text)
        self._hashes.append(mark)
        self._slots[place] = number
        if 2 * len(self._hashes) > len(self._slots):
            self._widen()
        return number

    def _widen(self) -> None:
        self._slots = slots = array("i", [_FREE]) * (2 * len(self._slots))
        last = len(slots) - 1
        for number, mark in enumerate(self._hashes):
            place = mark & last
            while slots[place] != _FREE:
                place = (place + 1) & last
            slots[place] = number

    def get(self, text: str) -> int | None:
        number = self._slots[self._slot(text, hash(text))]
        return None if number == _FREE else number

    def __contains__(self, text: str) -> bool:
        return self.get(text) is not None

    def __getitem__(self, number: int) -> str:
        return self._texts[number]

    def __len__(self) -> int:
        return len(self._hashes)

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)
