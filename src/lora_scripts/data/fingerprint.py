"""What a run was trained on, as a value that can be kept, compared and explained."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import ItemsView, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.catalogue import say
from ..core.json_pieces import json_pieces
from .sample import Sample
from .samples import Samples
from .text_files import listing

VERSION = 1


class Entries(Mapping[str, dict[str, Any]]):
    """Name of each picture, in order -> its entry, however often and in however many sizes it comes. Entries
    are made when they are asked for."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._samples = samples
        names = list(samples.names() if isinstance(samples, Samples) else (each.name for each in samples))
        order = sorted(range(len(names)), key=names.__getitem__)
        first = [place for n, place in enumerate(order) if not n or names[place] != names[order[n - 1]]]
        self._places = np.array(first, np.int32)

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[str]:
        return (self._samples[place].name for place in self._places)

    def __getitem__(self, name: str) -> dict[str, Any]:
        found = bisect_left(self._places, name, key=lambda place: self._samples[place].name)
        if found == len(self._places) or (sample := self._samples[self._places[found]]).name != name:
            raise KeyError(name)
        return _entry(sample)

    def items(self) -> ItemsView[str, dict[str, Any]]:
        return _Items(self)

    def pairs(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for place in self._places:
            sample = self._samples[place]
            yield sample.name, _entry(sample)


class _Items(ItemsView[str, dict[str, Any]]):
    """One after another, each looked up once."""

    def __init__(self, entries: Entries) -> None:
        super().__init__(entries)
        self._entries = entries

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        return self._entries.pairs()


def _entry(sample: Sample) -> dict[str, Any]:
    return {"sha256": sample.picture.sha256, "caption": sample.caption, **_handling(sample)}


def _handling(sample: Sample) -> dict[str, Any]:
    """What is done to a picture besides learning it once as it is; nothing where nothing is."""
    handling, wording = sample.handling, sample.handling.wording
    written = str(sample.example.fields["caption"])
    found: dict[str, Any] = {}
    if sample.repeats > 1:
        found["repeats"] = sample.repeats
    if wording.changes(written):
        found["wordings"] = [written, wording.shuffle, wording.keep, wording.variants]
    if wording.dropout:
        found["dropout"] = wording.dropout
    if handling.regularization:
        found["weight"] = handling.weight
    if sample.mask is not None:
        found["mask"] = [sample.mask.kind, sample.mask.sha256]
    return found


def fingerprint(train: Sequence[Sample], validation: Sequence[Sample] = ()) -> dict[str, Any]:
    """``{"version", "sha256", "train": {name: {"sha256", "caption"}}, "validation": {...}}``, ready for JSON.
    What is done to a picture besides (repeats, shuffled captions, a mask ...) stands in its entry too.

    Names are relative to their data folders, so that the value is the same on every machine; ``sha256`` is
    that of all the rest.
    """
    content = {"version": VERSION, "train": Entries(train), "validation": Entries(validation)}
    digest = hashlib.sha256()
    for piece in json_pieces(content, separators=(",", ":")):
        digest.update(piece.encode())
    return {"sha256": digest.hexdigest(), **content}


def summary(value: Mapping[str, Any]) -> dict[str, Any]:
    """The short form for a file's header: hash and counts."""
    return {
        "sha256": value["sha256"],
        "train": len(value["train"]),
        "validation": len(value["validation"]),
    }


@dataclass(frozen=True)
class Differences:
    """Names of the pictures, held-out ones included, in which two fingerprints differ."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    recaptioned: tuple[str, ...] = ()
    moved: tuple[str, ...] = ()
    handled: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return any((self.added, self.removed, self.changed, self.recaptioned, self.moved, self.handled))

    def lines(self) -> list[str]:
        """One sentence for each kind of difference, in the user's language."""
        kinds = ("added", "removed", "changed", "recaptioned", "moved", "handled")
        return [
            say(f"data.difference.{kind}", count=len(names), names=listing(list(names)))
            for kind in kinds
            if (names := getattr(self, kind))
        ]


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Differences:
    """What changed from ``old`` to ``new``: pictures added, removed or with other bytes, other captions,
    pictures that moved between training and validation, and those that are handled otherwise (repeats, ways
    to word a caption, masks)."""
    before, after = (
        {(part, name): entry for part in ("train", "validation") for name, entry in value[part].items()}
        for value in (old, new)
    )
    common = sorted(before.keys() & after.keys())
    added, removed = after.keys() - before.keys(), before.keys() - after.keys()
    other = {"train": "validation", "validation": "train"}
    turned = {(part, name): (other[part], name) for part, name in removed}
    moved = {
        old_key: key for old_key, key in turned.items() if key in added and before[old_key] == after[key]
    }
    return Differences(
        added=_names(added - set(moved.values())),
        removed=_names(removed - moved.keys()),
        changed=_names(key for key in common if before[key]["sha256"] != after[key]["sha256"]),
        recaptioned=_names(key for key in common if before[key]["caption"] != after[key]["caption"]),
        moved=_names(moved),
        handled=_names(key for key in common if _rest(before[key]) != _rest(after[key])),
    )


def _rest(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name not in ("sha256", "caption")}


def _names(keys: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    return tuple(sorted(name for _, name in keys))
