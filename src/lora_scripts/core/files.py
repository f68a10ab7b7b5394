"""Files that are whole or absent: atomic, durable writes, and content hashes."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

TEMPORARY = ".tmp-"
"""What the names of files and folders begin with until they are whole."""
NO_SUCH_CALL = (errno.EINVAL, errno.ENOTSUP)
"""What network file systems answer that keep no order of their own for folders."""


def sync_folder(folder: Path) -> None:
    """Makes names inside ``folder`` durable; a no-op where the system has no such call, as on Windows."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in NO_SUCH_CALL:
            raise
    finally:
        os.close(handle)


def make_folders(folder: Path) -> None:
    """Creates ``folder`` and what is missing above it, durably: a file is lost with the folder it lies in."""
    missing = []
    place = folder
    while not place.exists() and place != place.parent:  # a drive that is not there has no end
        missing.append(place)
        place = place.parent
    for place in reversed(missing):
        place.mkdir(exist_ok=True)
        sync_folder(place.parent)


def clear_unfinished(folder: Path) -> None:
    """Removes what killed processes left half written in ``folder``, which nobody else is writing to."""
    for path in folder.glob(f"{TEMPORARY}*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def write_durable(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Writes a new file and waits until it is on disk. Not atomic: for files in a temporary folder."""
    with open(path, "wb") as handle:
        write(handle)
        handle.flush()
        os.fsync(handle.fileno())


def write_atomic(path: Path, content: bytes | str | Callable[[BinaryIO], object]) -> None:
    """Replaces ``path`` by ``content`` so that a reader sees the old file or the new one, never a part."""
    make_folders(path.parent)
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
    try:
        write_durable(temporary, data if callable(data) else lambda handle: handle.write(data))
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def copy_atomic(source: Path, target: Path) -> None:
    """Replaces ``target`` by the bytes of ``source``, piece by piece, as ``write_atomic`` does."""
    with open(source, "rb") as handle:
        write_atomic(target, lambda out: shutil.copyfileobj(handle, out))


def sha256_of(path: Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
