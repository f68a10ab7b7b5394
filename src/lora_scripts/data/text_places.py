"""From what a user named to the files that are read: a file, a folder, or a data set of a hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..core.lookup import did_you_mean
from ..core.problems import Location, Problem, ProblemsError
from .text_files import listing, printable
from .text_hub import fetch, is_hub_name

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt")
TABLES = SUFFIXES[:-1]


@dataclass(frozen=True)
class Place:
    """``files`` in reading order. ``documents``: each is a plain text; ``name`` is their folder."""

    name: str
    files: tuple[Path, ...]
    documents: bool = False
    notes: tuple[Problem, ...] = ()


def find(path: str) -> Place:
    """Raises ProblemsError: LS2100 and LS2102 nothing there, LS2101 a kind that is not read, LS2103 a folder
    with several data files, LS2104 a folder with none, LS2108 and LS2109 from a hub."""
    if "\0" in path:
        raise ProblemsError(Problem("LS2100", {"path": printable(path, 200)}, Location(printable(path, 200))))
    place = Path(path).expanduser()
    if place.is_dir():
        return _in_folder(path, place)
    if place.is_file():
        if place.suffix.lower() not in SUFFIXES:
            raise ProblemsError(Problem("LS2101", {"file": printable(place.name)}, Location(path)))
        return Place(path, (place,), place.suffix.lower() == ".txt")
    if is_hub_name(path):
        return Place(path, tuple(fetch(path)))
    beside = [entry.name for entry in place.parent.iterdir()] if place.parent.is_dir() else []
    near = did_you_mean(place.name, beside)
    if near:
        params = {"path": printable(path, 200), "near": printable(str(place.with_name(near)), 200)}
        raise ProblemsError(Problem("LS2102", params, Location(path)))
    raise ProblemsError(Problem("LS2100", {"path": printable(path, 200)}, Location(path)))


def _in_folder(path: str, folder: Path) -> Place:
    entries = sorted(
        entry for entry in folder.iterdir() if entry.is_file() and not entry.name.startswith(".")
    )
    tables = [entry for entry in entries if entry.suffix.lower() in TABLES]
    if len(tables) > 1:
        params = {"folder": printable(path, 200), "files": listing([entry.name for entry in tables], 12)}
        raise ProblemsError(Problem("LS2103", params, Location(path)))
    if tables:
        note = Problem("LS2105", {"file": str(tables[0])}, Location(path), "note")
        return Place(str(tables[0]), (tables[0],), notes=(note,))
    documents = tuple(
        entry
        for entry in sorted(folder.rglob("*.txt"))
        if entry.is_file() and not any(part.startswith(".") for part in entry.relative_to(folder).parts)
    )
    if not documents:
        raise ProblemsError(Problem("LS2104", {"folder": printable(path, 200)}, Location(path)))
    return Place(path, documents, documents=True)
