"""What a text run was trained on, as a value that can be kept, compared and explained."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import numpy as np

from ..core.catalogue import say
from .text_files import listing, printable
from .token_table import TokenTable

VERSION = 1


def _hash_of(table: TokenTable, rows: np.ndarray) -> str:
    """Of the content keys in the order of ``rows``: other texts, another order and another weight differ."""
    return hashlib.sha256(table.keys[np.asarray(rows, dtype=np.int64)].tobytes()).hexdigest()


def fingerprint(
    table: TokenTable, train: np.ndarray, validation: np.ndarray, files: Mapping[str, str]
) -> dict[str, Any]:
    """``{"version", "kind": "text", "sha256", "train": n, "validation": n, "files": {name: sha256}, ...}``,
    ready for JSON.

    ``train`` and ``validation`` are row numbers of ``table``; ``files``: path -> SHA-256, of which the names
    alone are kept, so that the value is the same on every machine. ``sha256`` is of all the rest but
    ``files``: what is learnt is the rows' tokens, wherever they come from.
    """
    content: dict[str, Any] = {
        "version": VERSION,
        "kind": "text",
        "train": len(train),
        "validation": len(validation),
        "rows": {"train": _hash_of(table, train), "validation": _hash_of(table, validation)},
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return {"sha256": hashlib.sha256(text.encode()).hexdigest(), **content, "files": _named(files)}


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
    differ; and whether the rows of a part differ though no file does."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    counts: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    others: tuple[str, ...] = ()

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
        if self.others and not self.counts:
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
    )
