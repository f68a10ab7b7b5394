"""Calls to the system that change a disk: seen in their order, and cut off at any one of them.

While ``Calls`` is in force these are ours: ``open`` for writing (``builtins`` and ``io``, whose files write
through a raw file of ours, so that every write is one ``write(2)``), and in ``os`` ``open``, ``fsync``,
``mkdir``, ``rename``, ``replace``, ``unlink``, ``remove``, ``rmdir`` and ``truncate``. ``pathlib``,
``shutil`` and the product's one writer of ``.safetensors`` go through them; the safetensors library's own
writer, which does not, is used nowhere in the product.
"""

from __future__ import annotations

import builtins
import io
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

KILLED = 137
OPEN, WRITE, FSYNC, MKDIR, RENAME, REMOVE, CUT = "open", "write", "fsync", "mkdir", "rename", "remove", "cut"
REFUSED = "refused"


class Killed(BaseException):
    """In place of a death: raised by the call that was cut off and by every later one, without effect."""


@dataclass(frozen=True)
class Call:
    """``path`` is relative to the watched folder. ``data``: what a write wrote; ``target``: of a renaming."""

    name: str
    path: str
    target: str = ""
    data: bytes = b""

    def __str__(self) -> str:
        return f"{self.name} {self.path}{f' -> {self.target}' if self.target else ''}"


class Calls:
    """What happens below ``root``. ``log``: all calls. Call number ``cut`` (from 0) does not happen any more;
    with ``torn`` half of it does, if it is a write. ``fork``: the process then ends, by ``os._exit``."""

    def __init__(self, root: Path, cut: int | None = None, *, torn: bool = False, fork: bool = False) -> None:
        self.root = str(root)
        self.cut, self.torn, self.fork = cut, torn, fork
        self.log: list[Call] = []
        self._dead = False
        self._places: dict[int, str] = {}
        names = ("open", "fsync", "mkdir", "rename", "replace", "unlink", "remove", "rmdir", "truncate")
        self._real = {name: getattr(os, name) for name in names}
        self._open = builtins.open
        self._stack = ExitStack()

    def __enter__(self) -> Calls:
        ours: dict[str, Callable[..., Any]] = {
            "open": self._os_open, "fsync": self._fsync, "mkdir": self._one(MKDIR, "mkdir"),
            "truncate": self._one(CUT, "truncate"), "rename": self._two("rename"),
            "replace": self._two("replace"),
            "unlink": self._one(REMOVE, "unlink"), "remove": self._one(REMOVE, "remove"),
            "rmdir": self._one(REMOVE, "rmdir"),
        }  # fmt: skip
        for name, function in ours.items():
            self._stack.enter_context(patch.object(os, name, function))
        self._stack.enter_context(patch.object(builtins, "open", self._file))
        self._stack.enter_context(patch.object(io, "open", self._file))
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        self._stack.close()
        return isinstance(error, Killed)

    def _place(self, path: Any, dir_fd: int | None = None) -> str | None:
        """Where a path lies below the root; None elsewhere."""
        if isinstance(path, int):
            return self._places.get(path)
        whole = os.path.join(self._places.get(dir_fd, "") if dir_fd is not None else "", os.fspath(path))
        if dir_fd is not None and dir_fd not in self._places:
            return None
        if not os.path.isabs(whole) and dir_fd is not None:
            return os.path.normpath(whole)
        whole = os.path.abspath(whole)
        inside = whole == self.root or whole.startswith(self.root + os.sep)
        return os.path.relpath(whole, self.root) if inside else None

    def _passes(self, call: Call, half: Callable[[], object] | None = None) -> None:
        if self._dead:
            raise Killed
        self.log.append(call)
        if len(self.log) - 1 == self.cut:
            if self.torn and half is not None:
                half()
            if self.fork:
                os._exit(KILLED)
            self._dead = True
            raise Killed

    def _one(self, name: str, function: str) -> Callable[..., Any]:
        def call(path: Any, *more: Any, dir_fd: int | None = None, **options: Any) -> Any:
            if dir_fd is not None:
                options["dir_fd"] = dir_fd
            if (place := self._place(path, dir_fd)) is None:
                return self._real[function](path, *more, **options)
            self._passes(Call(name, place))
            try:
                return self._real[function](path, *more, **options)
            except OSError:
                self.log[-1] = Call(REFUSED, place)
                raise

        return call

    def _two(self, function: str) -> Callable[..., Any]:
        def call(source: Any, target: Any, **options: Any) -> Any:
            places = self._place(source), self._place(target)
            if places != (None, None):
                self._passes(Call(RENAME, *(place or "elsewhere" for place in places)))
            return self._real[function](source, target, **options)

        return call

    def _os_open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        place = self._place(path, dir_fd)
        if place is not None and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            self._passes(Call(OPEN, place))
        handle: int = self._real["open"](path, flags, mode, dir_fd=dir_fd)
        self._places.pop(handle, None)
        if place is not None:
            self._places[handle] = place
        return handle

    def _fsync(self, handle: Any) -> None:
        number = handle if isinstance(handle, int) else handle.fileno()
        if (place := self._places.get(number)) is not None:
            self._passes(Call(FSYNC, place))
        self._real["fsync"](handle)

    def _file(self, file: Any, mode: str = "r", buffering: int = -1, *more: Any, **options: Any) -> Any:
        place = None if isinstance(file, int) or not set(mode) & set("wax+") else self._place(file)
        if place is None:
            return self._open(file, mode, buffering, *more, **options)
        self._passes(Call(OPEN, place))
        raw = _Raw(file, mode.replace("b", "").replace("t", ""))
        raw.seen = lambda data: self._passes(Call(WRITE, place, data=data), lambda: raw.half(data))
        self._places[raw.fileno()] = place
        if buffering == 0:
            return raw
        kind = io.BufferedRandom if "+" in mode else io.BufferedWriter
        handle: Any = kind(raw)
        return handle if "b" in mode else io.TextIOWrapper(handle, *more, **options)


class _Raw(io.FileIO):
    """A file whose every ``write(2)`` is seen before it happens."""

    seen: Callable[[bytes], None]

    def write(self, data: Any) -> int:
        self.seen(bytes(data))
        return super().write(data)

    def half(self, data: bytes) -> None:
        super().write(data[: len(data) // 2])
