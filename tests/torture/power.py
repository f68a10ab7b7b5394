"""What a disk may hold after a power failure: whatever was not asked to be durable may be there or not.

A folder's names become durable by an fsync of the folder, a file's bytes by an fsync of the file. After each
call the power may fail; then all, none, or one folder's names that wait are kept, and the bytes that wait are
kept or lost. A renaming is kept or lost as a whole, as journalling file systems promise.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .calls import FSYNC, MKDIR, OPEN, REMOVE, RENAME, WRITE, Call


@dataclass(eq=False)
class File:
    bytes: bytes = b""
    durable: bytes = b""


@dataclass(eq=False)
class Folder:
    names: dict[str, File | Folder] = field(default_factory=dict)
    durable: dict[str, File | Folder] = field(default_factory=dict)


def read(place: Path) -> Folder:
    """A folder on disk, all of it durable."""
    found = Folder()
    for path in place.iterdir():
        content = None if path.is_dir() else path.read_bytes()
        found.names[path.name] = read(path) if content is None else File(content, content)
    found.durable = dict(found.names)
    return found


def _folder(root: Folder, path: str) -> Folder:
    place: File | Folder = root
    for part in path.split(os.sep) if path not in ("", ".") else ():
        assert isinstance(place, Folder)
        place = place.names[part]
    assert isinstance(place, Folder)
    return place


def _parent(root: Folder, path: str) -> tuple[Folder, str]:
    head, name = os.path.split(path)
    return _folder(root, head), name


def happen(root: Folder, call: Call) -> None:
    """Makes ``root`` what it is after ``call``."""
    if call.path == "elsewhere" or call.name not in (OPEN, WRITE, FSYNC, MKDIR, RENAME, REMOVE):
        return
    if call.name == FSYNC and call.path == ".":
        root.durable = dict(root.names)
        return
    parent, name = _parent(root, call.path)
    thing = parent.names.get(name)
    if call.name == OPEN:
        if isinstance(thing, File):
            thing.bytes = b""
        else:
            parent.names[name] = File()
    elif call.name == WRITE:
        assert isinstance(thing, File)
        thing.bytes += call.data
    elif call.name == FSYNC:
        if isinstance(thing, File):
            thing.durable = thing.bytes
        elif isinstance(thing, Folder):
            thing.durable = dict(thing.names)
    elif call.name == MKDIR:
        parent.names[name] = Folder()
    elif call.name == REMOVE:
        del parent.names[name]
    else:
        target, its_name = _parent(root, call.target)
        target.names[its_name] = parent.names.pop(name)


def folders(root: Folder) -> Iterator[Folder]:
    """All folders that are or were there."""
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        place = waiting.pop()
        if id(place) not in seen:
            seen.add(id(place))
            yield place
            both = (*place.names.values(), *place.durable.values())
            waiting += [thing for thing in both if isinstance(thing, Folder)]


def _write(place: Folder, to: Path, kept: set[int], contents: bool) -> None:
    to.mkdir(exist_ok=True)
    for name, thing in (place.names if id(place) in kept else place.durable).items():
        if isinstance(thing, Folder):
            _write(thing, to / name, kept, contents)
        else:
            (to / name).write_bytes(thing.bytes if contents else thing.durable)


def _choices(root: Folder) -> Iterator[set[int]]:
    """Which folders' waiting names are kept."""
    every = {id(place) for place in folders(root)}
    waiting = {id(place) for place in folders(root) if place.names != place.durable}
    yield every
    if waiting:
        yield set()
        if len(waiting) > 1:
            for one in waiting:
                yield {one}
                yield every - {one}


def worlds(root: Folder, log: Sequence[Call], to: Path) -> Iterator[tuple[int, Path]]:
    """Every state that a power failure may leave: (number of calls that had happened, a folder of it)."""
    number = 0
    for done in range(len(log) + 1):
        if done:
            happen(root, log[done - 1])
        for kept in _choices(root):
            for contents in (False, True):
                number += 1
                place = to / f"{number:05d}"
                _write(root, place, kept, contents)
                yield done, place
