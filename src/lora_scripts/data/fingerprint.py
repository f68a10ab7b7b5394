"""What a run was trained on, as a value that can be kept, compared and explained."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..core.catalogue import say
from .sample import Sample
from .text_files import listing

VERSION = 1


def _entries(samples: Iterable[Sample]) -> dict[str, dict[str, Any]]:
    """One entry for each picture, however often and in however many sizes it comes."""
    found: dict[str, dict[str, Any]] = {}
    for sample in sorted(samples, key=lambda sample: sample.name):
        if sample.name not in found:
            found[sample.name] = {
                "sha256": sample.picture.sha256,
                "caption": sample.caption,
                **_handling(sample),
            }
    return found


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


def fingerprint(train: Iterable[Sample], validation: Iterable[Sample] = ()) -> dict[str, Any]:
    """``{"version", "sha256", "train": {name: {"sha256", "caption"}}, "validation": {...}}``, ready for JSON.
    What is done to a picture besides (repeats, shuffled captions, a mask ...) stands in its entry too.

    Names are relative to their data folders, so that the value is the same on every machine; ``sha256`` is
    that of all the rest.
    """
    content = {"version": VERSION, "train": _entries(train), "validation": _entries(validation)}
    text = json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return {"sha256": hashlib.sha256(text.encode()).hexdigest(), **content}


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
