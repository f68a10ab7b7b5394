"""The pictures of a data folder, found by the names that rows give them, and never outside of it."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

READABLE = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".bmp", ".gif", ".avif")
KNOWN_ONLY = (".tif", ".tiff", ".heic", ".heif", ".jxl", ".jp2", ".psd")
"""Pictures that are not read, but named as such instead of being overlooked."""
PICTURE_SUFFIXES = frozenset(READABLE + KNOWN_ONLY)


def loose_name(name: str) -> str:
    """A key under which names that macOS or Windows take for the same file are equal."""
    return unicodedata.normalize("NFC", name).casefold()


@dataclass(frozen=True)
class Found:
    """A picture that a row names; ``name`` is relative to its data folder, with ``/``, in NFC."""

    path: Path
    name: str


@dataclass(frozen=True)
class NotFound:
    """``code`` is a problem's code; ``near`` the name that was probably meant."""

    code: str
    near: str | None = None


@dataclass
class PictureFolder:
    """All pictures below ``root``, sub-folders included, hidden ones and those in ``exclude`` left out."""

    root: Path
    pictures: dict[str, Path] = field(default_factory=dict)
    loose: dict[str, list[str]] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)

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
            for name in sorted(files):
                if name.startswith(".") or os.path.splitext(name)[1].lower() not in PICTURE_SUFFIXES:
                    continue
                path = Path(current, name)
                relative = path.relative_to(root).as_posix()
                folder.pictures[relative] = path
                folder.loose.setdefault(loose_name(relative), []).append(relative)
        return folder

    def colliding(self) -> list[str]:
        """Names that differ only in case or Unicode form: one file on macOS and Windows."""
        return [name for names in self.loose.values() if len(names) > 1 for name in names]

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
        roots = [os.path.abspath(root) for root in (self.root, beside) if root is not None]
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
        if root == os.path.abspath(self.root):
            names = self.loose.get(loose_name(relative), [])
            form = unicodedata.normalize("NFC", relative)
            exact = [name for name in names if name == relative] or [
                name for name in names if unicodedata.normalize("NFC", name) == form
            ]
            if len(exact or names) == 1:
                name = (exact or names)[0]
                return Found(self.pictures[name], unicodedata.normalize("NFC", name))
            if names:
                return NotFound("LS2033", ", ".join(names))
            path = self.root / relative
        else:
            path = Path(root, relative)
        if not os.path.isfile(path):
            return None
        return Found(path, unicodedata.normalize("NFC", relative))

    def nearest(self, written: str) -> str | None:
        """The picture whose name is nearest to ``written``: another ending, another folder, a slip."""
        from ..core.lookup import did_you_mean

        wanted = loose_name(written.replace("\\", "/"))
        base, stem = os.path.basename(wanted), os.path.splitext(os.path.basename(wanted))[0]
        for same in (os.path.basename, lambda key: os.path.splitext(os.path.basename(key))[0]):
            for key, names in self.loose.items():
                if same(key) in (base, stem):
                    return names[0]
        near = did_you_mean(wanted, self.loose, cutoff=80.0)
        return self.loose[near][0] if near else None
