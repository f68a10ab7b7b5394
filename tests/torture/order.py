"""The rules by which a disk keeps what it was told, whenever the power fails: checked on a log of calls."""

from __future__ import annotations

import os
from collections.abc import Sequence

from lora_scripts.core.files import TEMPORARY

from .calls import CUT, FSYNC, MKDIR, OPEN, REMOVE, RENAME, WRITE, Call


def unfinished(path: str) -> bool:
    """Whether nobody would miss a path: it, or a folder around it, has a temporary name."""
    return any(part.startswith(TEMPORARY) for part in path.split(os.sep))


def below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder + os.sep)


class Disk:
    """What is not durable yet: contents of files, and names in folders."""

    def __init__(self) -> None:
        self.contents: set[str] = set()
        self.names: dict[str, set[str]] = {}
        self.broken: list[str] = []

    def name(self, path: str) -> None:
        self.names.setdefault(os.path.dirname(path) or ".", set()).add(path)

    def pending(self, inside: str | None = None) -> list[str]:
        """Contents and names the disk may still forget: those in a folder, or all that would be missed."""
        places = [folder for folder in self.names if inside is None or below(folder, inside)]
        found = {path for folder in places for path in self.names[folder]}
        found |= {path for path in self.contents if inside is None or below(path, inside)}
        return sorted(path for path in found if inside is not None or not unfinished(path))

    def rename(self, call: Call) -> None:
        if not unfinished(call.target):
            for path in self.pending(call.path):
                self.broken.append(f"{call.target} is put in place before {path} is durable")
        self.removed(call.path)
        for kept in [path for path in self.contents if below(path, call.path)]:
            self.contents.remove(kept)
            self.contents.add(call.target + kept.removeprefix(call.path))
        for names in self.names.values():
            names.difference_update({path for path in names if below(path, call.path)})
        self.names = {f: n for f, n in self.names.items() if n and not below(f, call.path)}
        self.name(call.target)

    def removed(self, path: str) -> None:
        if unfinished(path):
            return
        for other in self.pending():
            if other != path:
                self.broken.append(f"{path} is removed before {other} is durable")


def broken_rules(log: Sequence[Call]) -> list[str]:
    """Every place where the order of calls would let a power failure lose something; none is right.

    A file is never written in place; it is durable before it gets its name, and so is a folder with all that
    lies in it; nothing is removed while something new may still be forgotten; in the end nothing may be.
    """
    disk = Disk()
    for call in log:
        if call.name in (OPEN, WRITE, CUT):
            if not unfinished(call.path):
                disk.broken.append(f"{call.path} is written in place")
            if call.name == OPEN:
                disk.name(call.path)
            disk.contents.add(call.path)
        elif call.name == FSYNC:
            disk.contents.discard(call.path)
            disk.names.pop(call.path, None)
        elif call.name == MKDIR:
            disk.name(call.path)
        elif call.name == RENAME:
            disk.rename(call)
        elif call.name == REMOVE:
            disk.removed(call.path)
    disk.broken += [f"{path} is not durable in the end" for path in disk.pending()]
    return list(dict.fromkeys(disk.broken))
