"""What a text run was trained on, as a value that can be kept, compared and explained."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import numpy as np

from ..core.catalogue import say
from .text_files import listing, printable
from .token_table import TokenTable

VERSION = 1
NAMED_ROWS = 20_000
"""Up to so many rows ``data.json`` tells them apart, with their places: half a hundred bytes for each."""
DIGITS = 16
"""Of a row's content key: enough to tell that many apart."""


def _hash_of(table: TokenTable, rows: np.ndarray) -> str:
    """Of the content keys in the order of ``rows``: other texts, another order and another weight differ."""
    return hashlib.sha256(table.keys[np.asarray(rows, dtype=np.int64)].tobytes()).hexdigest()


def fingerprint(
    table: TokenTable, train: np.ndarray, validation: np.ndarray, files: Mapping[str, str]
) -> dict[str, Any]:
    """``{"version", "kind": "text", "sha256", "train": n, "validation": n, "files": {name: sha256}, ...}``,
    ready for JSON.

    ``train`` and ``validation`` are row numbers of ``table``; ``files``: path -> SHA-256, of which the names
    alone are kept, so that the value is the same on every machine. ``places``: content key -> file and line
    of each row, where there are not too many. ``sha256`` is of all the rest but ``files`` and ``places``:
    what is learnt is the rows' tokens, wherever they come from.
    """
    content: dict[str, Any] = {
        "version": VERSION,
        "kind": "text",
        "train": len(train),
        "validation": len(validation),
        "rows": {"train": _hash_of(table, train), "validation": _hash_of(table, validation)},
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return {
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
        **content,
        "files": _named(files),
        "places": _places(table, np.concatenate([train, validation])),
    }


def _places(table: TokenTable, rows: np.ndarray) -> dict[str, str]:
    if len(rows) > NAMED_ROWS:
        return {}
    keys, found = table.keys, {}
    for row in np.unique(rows).tolist():
        place = table.place(row)
        found[keys[row].decode()[:DIGITS]] = f"{PurePath(place.file).name}:{place.line}"
    return found


def _named(files: Mapping[str, str]) -> dict[str, str]:
    """Paths by their last part, or by as many as tell them apart."""
    paths = {path: PurePath(path.replace("\\", "/")).parts for path in files}
    named: dict[str, str] = {}
    for path, parts in sorted(paths.items()):
        length = 1
        while length < len(parts) and any(
            other != path and theirs[-length:] == parts[-length:] for other, theirs in paths.items()
        ):
            length += 1
        named["/".join(parts[-length:])] = files[path]
    return named


def summary(value: Mapping[str, Any]) -> dict[str, Any]:
    """The short form for a file's header: hash and counts."""
    return {"sha256": value["sha256"], "train": value["train"], "validation": value["validation"]}


@dataclass(frozen=True)
class Differences:
    """Names of files that were added, removed or have other content; counts before and after where they
    differ; whether the rows of a part differ; and the places of rows that are ``new``, ``gone`` or
    ``rewritten`` in place, where rows were few enough to be told apart."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    counts: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    others: tuple[str, ...] = ()
    new: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    rewritten: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Whether what is learnt differs; files may have been renamed without that."""
        return bool(self.counts or self.others)

    def lines(self) -> list[str]:
        """One sentence for each kind of difference, in the user's language."""
        kinds = ("added", "removed", "changed")
        found = [
            say(f"texts.difference.{kind}", count=len(names), names=listing(list(names)))
            for kind in kinds
            if (names := getattr(self, kind))
        ]
        for part, (old, new) in self.counts.items():
            found.append(say(f"texts.difference.{part}", old=old, new=new))
        kinds = ("rewritten", "new", "gone")
        rows = [
            say(f"texts.difference.{kind}", count=len(places), names=listing(list(places)))
            for kind in kinds
            if (places := getattr(self, kind))
        ]
        found += rows
        if self.others and not self.counts and not rows:
            found.append(say("texts.difference.rows"))
        return [printable(line, 400) for line in found]


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Differences:
    """What changed from ``old`` to ``new``. An unequal pair with equal files and counts means that the same
    rows were tokenised, split or weighted otherwise."""
    before, after = old["files"], new["files"]
    return Differences(
        added=tuple(sorted(after.keys() - before.keys())),
        removed=tuple(sorted(before.keys() - after.keys())),
        changed=tuple(sorted(name for name in before.keys() & after.keys() if before[name] != after[name])),
        counts={part: (old[part], new[part]) for part in ("train", "validation") if old[part] != new[part]},
        others=tuple(part for part in ("train", "validation") if old["rows"][part] != new["rows"][part]),
        **_rows(old.get("places"), new.get("places")),
    )


def _rows(old: Mapping[str, str] | None, new: Mapping[str, str] | None) -> dict[str, tuple[str, ...]]:
    if not old or not new:
        return {}
    came = {place: None for key, place in new.items() if key not in old}
    went = {place: None for key, place in old.items() if key not in new}
    return {
        "new": _in_order(came.keys() - went.keys()),
        "gone": _in_order(went.keys() - came.keys()),
        "rewritten": _in_order(came.keys() & went.keys()),
    }


def _in_order(places: Iterable[str]) -> tuple[str, ...]:
    """Places by file and line."""
    pairs = [place.rpartition(":") for place in places]
    return tuple(
        f"{file}:{line}" for file, _, line in sorted(pairs, key=lambda pair: (pair[0], int(pair[2])))
    )
