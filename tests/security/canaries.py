"""Files that would tell on whoever ran what is in them."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path

import torch


class Canary:
    """A pickle of it makes the file ``mark`` when it is opened."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (os.mkdir, (str(self.mark),))


def bare(path: Path, mark: Path) -> Path:
    path.write_bytes(pickle.dumps(Canary(mark), protocol=2))
    return path


def archived(path: Path, mark: Path) -> Path:
    """As ``torch.save`` writes it: weights, and the canary beside them."""
    torch.save({"state_dict": {"weight": torch.ones(2, 2)}, "note": Canary(mark)}, path)
    return path


def legacy(path: Path, mark: Path) -> Path:
    """As old versions wrote it."""
    torch.save({"weight": torch.ones(2), "note": Canary(mark)}, path, _use_new_zipfile_serialization=False)
    return path


def hidden(path: Path, mark: Path) -> Path:
    """A zip with an empty entry before the pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("README", "")
        archive.writestr("archive/data.pkl", pickle.dumps(Canary(mark), protocol=2))
    return path


KINDS = {"bare": bare, "archived": archived, "legacy": legacy, "hidden": hidden}


def opens(path: Path) -> None:
    """Opens it as the careless do, to show that a canary sings."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            pickle.loads(archive.read(name), fix_imports=True) if name == "archive/data.pkl" else torch.load(
                path, weights_only=False
            )
    elif path.read_bytes().startswith(b"\x80\x02\x8a"):
        torch.load(path, weights_only=False)
    else:
        pickle.loads(path.read_bytes())
