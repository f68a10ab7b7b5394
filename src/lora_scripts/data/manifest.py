"""From a folder of pictures and their captions to ``Example``s, or everything that is wrong with them.

Captions come from ``metadata_path``, else from the first of ``metadata.csv``, ``metadata.jsonl`` and caption
files (``picture.txt`` or ``picture.caption`` beside ``picture.jpg``) that the folder holds.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..core.problems import Location, Problem, Severity
from .captions import clean, has_marker, is_empty, with_trigger
from .folder import Found, PictureFolder
from .rows import NamedCaption, read_rows
from .text_files import listing, printable, read_text

METADATA_NAMES = ("metadata.csv", "metadata.jsonl")
CAPTION_SUFFIXES = (".txt", ".caption")
_SUGGESTIONS = 20
"""Rows for which a near name is looked for; when more are missing, the folder is wrong and not the names."""


@dataclass(frozen=True)
class Example:
    """One thing to learn. For pictures ``fields`` holds ``image`` (Path), ``caption`` (str) and ``name``: the
    picture's path inside its data folder, with ``/``, in NFC: the same on every machine."""

    fields: Mapping[str, Any]
    where: Location

    def __post_init__(self) -> None:
        object.__setattr__(self, "fields", MappingProxyType(dict(self.fields)))


@dataclass(frozen=True)
class Manifest:
    examples: tuple[Example, ...]
    source: str
    problems: list[Problem] = field(default_factory=list)


@dataclass
class _Reader:
    folder: PictureFolder
    strict: bool
    trigger: str | None
    problems: list[Problem] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    marked: list[str] = field(default_factory=list)

    @property
    def place(self) -> Location:
        return Location(str(self.folder.root))

    @property
    def lenient(self) -> Severity:
        return "error" if self.strict else "warning"

    def add(self, found: Found, caption: str, where: Location) -> None:
        caption = clean(caption)
        short = f"{Path(where.file).name}:{where.line}"
        if is_empty(caption):
            self.empty.append(short)
        if has_marker(caption):
            self.marked.append(short)
        fields = {"image": found.path, "name": found.name, "caption": with_trigger(caption, self.trigger)}
        self.examples.append(Example(fields, where))

    def from_rows(self, path: Path, rows: list[NamedCaption]) -> None:
        seen: dict[str, NamedCaption] = {}
        missing = 0
        for row in rows:
            where = Location(str(path), row.line)
            found = self.folder.find(row.name, path.parent)
            params: dict[str, Any] = {"line": row.line, "name": printable(row.name)}
            if not isinstance(found, Found):
                missing += 1
                near, code = found.near, found.code
                if code == "LS2030" and missing <= _SUGGESTIONS:
                    near = self.folder.nearest(row.name)
                    code = "LS2031" if near else code
                params |= {"near": printable(near or row.name), "folder": str(self.folder.root)}
                self.problems.append(Problem(code, params, where))
            elif (earlier := seen.get(found.name)) is None:
                seen[found.name] = row
                self.add(found, row.caption, where)
            else:
                params["earlier"] = earlier.line
                same = clean(earlier.caption) == clean(row.caption)
                code, severity = ("LS2035", "warning") if same else ("LS2034", "error")
                self.problems.append(Problem(code, params, where, severity))  # type: ignore[arg-type]
        self._without_caption({example.fields["name"] for example in self.examples}, path.name)

    def from_caption_files(self) -> None:
        for name, path in self.folder.pictures.items():
            caption_file = _caption_file(path)
            if caption_file is None:
                continue
            text, problems = read_text(caption_file)
            self.problems += problems
            if text is not None:
                found = self.folder.find(name)
                assert isinstance(found, Found)
                self.add(found, text.replace("\0", " "), Location(str(caption_file), 1))
        self._without_caption({example.fields["name"] for example in self.examples}, "picture.txt")
        stems = {path.with_suffix("") for path in self.folder.pictures.values()}
        folders = {path.parent for path in self.folder.pictures.values()} | {self.folder.root}
        alone = sorted(
            file.name
            for folder in folders
            for suffix in CAPTION_SUFFIXES
            for file in folder.glob(f"*{suffix}")
            if file.with_suffix("") not in stems and not file.name.startswith(".")
        )
        if alone:
            self._say("LS2039", "warning", alone)

    def _without_caption(self, used: set[str], source: str) -> None:
        rest = [name for name in self.folder.pictures if unicodedata.normalize("NFC", name) not in used]
        if rest:
            params = {"count": len(rest), "names": listing(rest), "source": source}
            self.problems.append(Problem("LS2036", params, self.place, self.lenient))

    def _say(self, code: str, severity: Severity, names: list[str]) -> None:
        params = {"count": len(names), "names": listing(names)}
        self.problems.append(Problem(code, params, self.place, severity))

    def finish(self, source: str) -> Manifest:
        if self.empty:
            self._say("LS2037", self.lenient, self.empty)
        if colliding := self.folder.colliding():
            self._say("LS2038", "warning", colliding)
        if self.marked:
            self._say("LS2040", "note", self.marked)
        return Manifest(tuple(self.examples), source, self.problems)


def _caption_file(picture: Path) -> Path | None:
    """``picture.txt``, or ``picture.jpg.txt`` as some tools write it."""
    for suffix in CAPTION_SUFFIXES:
        for candidate in (picture.with_suffix(suffix), picture.with_name(picture.name + suffix)):
            if candidate.is_file():
                return candidate
    return None


def read_pictures(
    train_data_dir: Path,
    metadata_path: Path | None = None,
    *,
    strict: bool = False,
    trigger_word: str | None = None,
    exclude: Iterable[Path] = (),
) -> Manifest:
    """The examples of a picture task, in the order of their rows (caption files: of their names).

    Raises nothing for bad rows, missing files or folders: all of it is in ``Manifest.problems``. With
    ``strict``, empty captions and pictures without a caption are errors instead of warnings. ``exclude``
    names folders inside ``train_data_dir`` that hold no training pictures.
    """
    place = Location(str(train_data_dir))

    def nothing(code: str, where: Location = place, **params: Any) -> Manifest:
        return Manifest((), str(metadata_path or train_data_dir), [Problem(code, params, where)])

    if not train_data_dir.is_dir():
        return nothing("LS2020", folder=str(train_data_dir))
    if metadata_path is not None and not metadata_path.is_file():
        return nothing("LS2022", Location(str(metadata_path)), file=str(metadata_path))
    reader = _Reader(PictureFolder.scan(train_data_dir, exclude), strict, trigger_word)
    source = metadata_path or next(
        (path for name in METADATA_NAMES if (path := train_data_dir / name).is_file()), None
    )
    if source is not None:
        rows, found = read_rows(source)
        reader.problems += found
        reader.from_rows(source, rows)
        return reader.finish(str(source))
    if not reader.folder.pictures:
        return nothing("LS2021", folder=str(train_data_dir))
    if not any(_caption_file(path) for path in reader.folder.pictures.values()):
        return nothing("LS2023", folder=str(train_data_dir), count=len(reader.folder.pictures))
    reader.from_caption_files()
    return reader.finish(str(train_data_dir / "*.txt"))
