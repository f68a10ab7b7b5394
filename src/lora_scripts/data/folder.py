"""The pictures of a data folder, found by the names that rows give them, and never outside of it."""

from __future__ import annotations

import os
import re
import unicodedata
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from .columns import Known

READABLE = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp", ".gif", ".avif")
KNOWN_ONLY = (".tif", ".tiff", ".heic", ".heif", ".jxl", ".jp2", ".psd")
"""Pictures that are not read, but named as such instead of being overlooked."""
PICTURE_SUFFIXES = frozenset(READABLE + KNOWN_ONLY)


def loose_name(name: str) -> str:
    """A key under which names that macOS or Windows take for the same file are equal."""
    return unicodedata.normalize("NFC", name).casefold()


@dataclass(frozen=True)
class Found:
    """A picture that a row names, ``written`` as it lies below ``folder``; ``name`` is relative to its data
    folder, with ``/``, in NFC."""

    folder: Path
    written: str
    name: str

    @property
    def path(self) -> Path:
        return self.folder / self.written


@dataclass(frozen=True)
class NotFound:
    """``code`` is a problem's code; ``near`` the name that was probably meant."""

    code: str
    near: str | None = None


class Pictures(Mapping[str, Path]):
    """Names relative to ``root``, with ``/``, in the order of the scan -> their paths."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._names = Known()

    def add(self, name: str) -> int:
        return self._names.add(name)

    def name(self, number: int) -> str:
        return self._names[number]

    def __getitem__(self, name: str) -> Path:
        if name not in self._names:
            raise KeyError(name)
        return self.root / name

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class PictureFolder:
    """All pictures below ``root``, sub-folders included, hidden ones and those in ``exclude`` left out.

    ``unreadable``: folders that could not be listed.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._home = os.path.abspath(root)
        self.pictures = Pictures(root)
        self.unreadable: list[str] = []
        self._loose = Known()
        self._firsts = array("i")
        """The first picture of each loose name; the others, of which there are few, are in ``_twins``."""
        self._twins: dict[int, list[int]] = {}

    @classmethod
    def scan(cls, root: Path, exclude: Iterable[Path] = ()) -> PictureFolder:
        folder = cls(root)
        hidden = {os.path.abspath(path) for path in exclude} - {os.path.abspath(root)}

        def refused(error: OSError) -> None:
            folder.unreadable.append(str(error.filename))

        for current, below, files in os.walk(root, onerror=refused):
            below[:] = sorted(
                name
                for name in below
                if not name.startswith(".") and os.path.abspath(os.path.join(current, name)) not in hidden
            )
            home = Path(current).relative_to(root).as_posix()
            for name in sorted(files):
                if name.startswith(".") or os.path.splitext(name)[1].lower() not in PICTURE_SUFFIXES:
                    continue
                folder._add(name if home == "." else f"{home}/{name}")
        return folder

    def _add(self, relative: str) -> None:
        number = self.pictures.add(relative)
        loose = self._loose.add(loose_name(relative))
        if loose == len(self._firsts):
            self._firsts.append(number)
        else:
            self._twins.setdefault(loose, []).append(number)

    def _of(self, loose: int) -> list[str]:
        """The pictures of one loose name."""
        return [self.pictures.name(each) for each in (self._firsts[loose], *self._twins.get(loose, ()))]

    def colliding(self) -> list[str]:
        """Names that differ only in case or Unicode form: one file on macOS and Windows."""
        return [name for loose in sorted(self._twins) for name in self._of(loose)]

    def find(self, written: str, beside: Path | None = None) -> Found | NotFound:
        """The picture called ``written``, in this folder, else in ``beside`` (the folder of the CSV).

        Backslashes separate folders as slashes do. Names that lead out of both folders are refused,
        whether or not such a file exists.
        """
        if "\0" in written:
            return NotFound("LS2032")
        name = written if written in self.pictures else written.replace("\\", "/")
        if re.match(r"^(?:[A-Za-z]:|//)", name) and os.name != "nt":
            return NotFound("LS2032", name.rsplit("/", 1)[-1])
        roots = [self._home] if beside is None else [self._home, os.path.abspath(beside)]
        inside = False
        for base in roots:
            target = os.path.normpath(os.path.join(base, name))
            for root in roots:
                if not target.startswith(root.rstrip(os.sep) + os.sep):
                    continue
                inside = True
                found = self._below(root, os.path.relpath(target, root).replace(os.sep, "/"))
                if found is not None:
                    return found
        return NotFound("LS2030") if inside else NotFound("LS2032", name.rsplit("/", 1)[-1])

    def _below(self, root: str, relative: str) -> Found | NotFound | None:
        if root == self._home:
            loose = self._loose.get(loose_name(relative))
            names = [] if loose is None else self._of(loose)
            form = unicodedata.normalize("NFC", relative)
            exact = [name for name in names if name == relative] or [
                name for name in names if unicodedata.normalize("NFC", name) == form
            ]
            if len(exact or names) == 1:
                name = (exact or names)[0]
                return Found(self.root, name, unicodedata.normalize("NFC", name))
            if names:
                return NotFound("LS2033", ", ".join(names))
        if not os.path.isfile(os.path.join(root, relative)):
            return None
        folder = self.root if root == self._home else Path(root)
        return Found(folder, relative, unicodedata.normalize("NFC", relative))

    def nearest(self, written: str) -> str | None:
        """The picture whose name is nearest to ``written``: another ending, another folder, a slip."""
        from ..core.lookup import did_you_mean

        wanted = loose_name(written.replace("\\", "/"))
        base, stem = os.path.basename(wanted), os.path.splitext(os.path.basename(wanted))[0]
        for same in (os.path.basename, lambda key: os.path.splitext(os.path.basename(key))[0]):
            for number, key in enumerate(self._loose):
                if same(key) in (base, stem):
                    return self._of(number)[0]
        near = did_you_mean(wanted, self._loose, cutoff=80.0)
        return None if near is None else self._of(self._loose.add(near))[0]
