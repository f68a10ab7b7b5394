"""From a folder of pictures and their captions to ``Example``s, or everything that is wrong with them.

Captions come from ``metadata_path``, else from the first of ``metadata.csv``, ``metadata.jsonl`` and caption
files (``picture.txt`` or ``picture.caption`` beside ``picture.jpg``) that the folder holds. Sub-folders
called ``10_sks dog`` say how often their pictures come, and what they show where no file does.
"""

from __future__ import annotations

import os
import unicodedata
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, overload

from ..core.problems import Location, Problem, Severity
from .captions import clean, has_marker, is_empty
from .columns import Known, Texts
from .file_names import is_foreign_to_windows, is_too_long
from .folder import Found, PictureFolder
from .kohya_folders import counted, is_counted
from .rows import stream_rows
from .text_files import listing, printable, read_text

METADATA_NAMES = ("metadata.csv", "metadata.jsonl")
CAPTION_SUFFIXES = (".txt", ".caption")
_SUGGESTIONS = 20
"""Rows for which a near name is looked for; when more are missing, the folder is wrong and not the names."""


@dataclass(frozen=True)
class Example:
    """One thing to learn. For pictures ``fields`` holds ``image`` (Path), ``caption`` (str), ``name``: the
    picture's path inside its data folder, with ``/``, in NFC: the same on every machine, and, where its
    folder says so, ``repeats`` (int)."""

    fields: Mapping[str, Any]
    where: Location

    def __post_init__(self) -> None:
        object.__setattr__(self, "fields", MappingProxyType(dict(self.fields)))


class Examples(Sequence[Example]):
    """The examples of a picture task as columns: each is made when it is asked for."""

    def __init__(self) -> None:
        self.names, self.captions = Texts(), Texts()
        self.lines, self.repeats = array("i"), array("i")
        """0 where there is none."""
        self._files, self._folders = Known(), Known()
        self._file, self._folder = array("i"), array("i")
        self._written = Texts()
        """Empty where it is the name."""

    def append(self, found: Found, caption: str, where: Location, repeats: int = 0) -> None:
        self.names.append(found.name)
        self.captions.append(caption)
        self.lines.append(where.line or 0)
        self.repeats.append(repeats)
        self._file.append(self._files.add(where.file))
        self._folder.append(self._folders.add(str(found.folder)))
        self._written.append("" if found.written == found.name else found.written)

    def image(self, number: int) -> Path:
        written = self._written[number] or self.names[number]
        return Path(os.path.join(self._folders[self._folder[number]], written))

    def __len__(self) -> int:
        return len(self.lines)

    @overload
    def __getitem__(self, number: int) -> Example: ...

    @overload
    def __getitem__(self, number: slice) -> list[Example]: ...

    def __getitem__(self, number: int | slice) -> Example | list[Example]:
        if isinstance(number, slice):
            return [self[each] for each in range(*number.indices(len(self)))]
        fields = {"image": self.image(number), "name": self.names[number], "caption": self.captions[number]}
        if repeats := self.repeats[number]:
            fields["repeats"] = repeats
        return Example(fields, Location(self._files[self._file[number]], self.lines[number] or None))


@dataclass(frozen=True)
class Manifest:
    examples: Sequence[Example]
    source: str
    problems: list[Problem] = field(default_factory=list)


@dataclass
class _Reader:
    folder: PictureFolder
    strict: bool
    problems: list[Problem] = field(default_factory=list)
    examples: Examples = field(default_factory=Examples)
    empty: list[str] = field(default_factory=list)
    marked: list[str] = field(default_factory=list)
    as_gbk: list[Problem] = field(default_factory=list)

    @property
    def place(self) -> Location:
        return Location(str(self.folder.root))

    @property
    def lenient(self) -> Severity:
        return "error" if self.strict else "warning"

    def add(self, found: Found, caption: str, where: Location, repeats: int = 0) -> None:
        caption = clean(caption)
        for marked, names in ((is_empty(caption), self.empty), (has_marker(caption), self.marked)):
            if marked:
                names.append(f"{Path(where.file).name}:{where.line}" if where.line else found.name)
        self.examples.append(found, caption, where, repeats)

    def from_rows(self, path: Path) -> None:
        seen, missing = Known(), 0
        problems: list[Problem] = []
        for row in stream_rows(path):
            if isinstance(row, Problem):
                self.problems.append(row)
                continue
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
                problems.append(Problem(code, params, where))
            elif (number := seen.add(found.name)) == len(self.examples):
                self.add(found, row.caption, where)
            else:
                params["earlier"] = self.examples.lines[number]
                same = self.examples.captions[number] == clean(row.caption)
                severity: Severity = "warning" if same else "error"
                problems.append(Problem("LS2035" if same else "LS2034", params, where, severity))
        self.problems += problems
        self._without_caption(seen, path.name)

    def from_caption_files(self) -> None:
        for name, path in self.folder.pictures.items():
            caption_file = caption_file_of(path)
            if caption_file is not None:
                self._from_file(name, caption_file)
        self._without_caption(Known(self.examples.names), "picture.txt")
        self._lonely_captions()

    def from_counted_folders(self) -> None:
        """Folders called ``10_sks dog``; pictures beside and in other folders are passed over."""
        loose: list[str] = []
        uncounted: dict[str, None] = {}
        unsaid: list[str] = []
        for name, path in self.folder.pictures.items():
            top, below, _ = name.partition("/")
            says = counted(top) if below else None
            if not below:
                loose.append(name)
            elif says is None:
                uncounted[top] = None
            elif caption_file := caption_file_of(path):
                self._from_file(name, caption_file, repeats=says.repeats)
            else:
                unsaid.append(name)
                self.add(self._found(name), says.words, Location(str(path)), repeats=says.repeats)
        if loose:
            self._say("LS2400", "warning", loose)
        if uncounted:
            self._say("LS2401", "warning", list(uncounted))
        if unsaid:
            self._say("LS2402", "note", unsaid)
        self._lonely_captions()

    def _found(self, name: str) -> Found:
        found = self.folder.find(name)
        assert isinstance(found, Found)
        return found

    def _from_file(self, name: str, caption_file: Path, repeats: int = 0) -> None:
        text, problems = read_text(caption_file)
        for problem in problems:
            (self.as_gbk if problem.code == "LS2011" else self.problems).append(problem)
        if text is not None:
            self.add(self._found(name), text.replace("\0", " "), Location(str(caption_file), 1), repeats)

    def _lonely_captions(self) -> None:
        """Beside ``a.jpg``, ``a.txt`` and ``a.jpg.txt`` are its captions; others belong to no picture."""
        pictures = self.folder.pictures
        stems, folders = Known(), Known([""])
        for name in pictures:
            stems.add(os.path.splitext(name)[0])
            folders.add(os.path.dirname(name))
        alone = sorted(
            file.name
            for folder in folders
            for suffix in CAPTION_SUFFIXES
            for file in (self.folder.root / folder).glob(f"*{suffix}")
            if not file.name.startswith(".")
            and (stem := f"{folder}/{file.stem}".lstrip("/")) not in stems
            and stem not in pictures
        )
        if alone:
            self._say("LS2039", "warning", alone)

    def _without_caption(self, used: Known, source: str) -> None:
        rest = [name for name in self.folder.pictures if unicodedata.normalize("NFC", name) not in used]
        if rest:
            params = {"count": len(rest), "names": listing(rest), "source": source}
            self.problems.append(Problem("LS2036", params, self.place, self.lenient))

    def _say(self, code: str, severity: Severity, names: list[str]) -> None:
        params = {"count": len(names), "names": listing(names)}
        self.problems.append(Problem(code, params, self.place, severity))

    def finish(self, source: str) -> Manifest:
        if len(self.as_gbk) > 1:  # a folder of them is one finding
            names = [str(problem.params["file"]) for problem in self.as_gbk]
            params = {
                "count": len(names),
                "names": listing(names),
                "sample": self.as_gbk[0].params["sample"],
            }
            self.problems.append(Problem("LS2403", params, self.place, "warning"))
        else:
            self.problems += self.as_gbk
        if self.empty:
            self._say("LS2037", self.lenient, self.empty)
        if colliding := self.folder.colliding():
            self._say("LS2038", "warning", colliding)
        if foreign := [name for name in self.folder.pictures if is_foreign_to_windows(name)]:
            self._say("LS2405", "warning", foreign)
        home = os.path.abspath(self.folder.root)
        if long := [name for name in self.folder.pictures if is_too_long(home, name)]:
            self._say("LS2406", "warning", long)
        if self.folder.unreadable:
            self._say("LS2407", self.lenient, self.folder.unreadable)
        if self.marked:
            self._say("LS2040", "note", self.marked)
        return Manifest(self.examples, source, self.problems)


def caption_file_of(picture: Path) -> Path | None:
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
    reader = _Reader(PictureFolder.scan(train_data_dir, exclude), strict)
    source = metadata_path or next(
        (path for name in METADATA_NAMES if (path := train_data_dir / name).is_file()), None
    )
    if source is not None:
        reader.from_rows(source)
        return reader.finish(str(source))
    if not reader.folder.pictures:
        return nothing("LS2021", folder=str(train_data_dir))
    if is_counted(reader.folder.pictures):
        reader.from_counted_folders()
        return reader.finish(str(train_data_dir / "N_*"))
    if not any(caption_file_of(path) for path in reader.folder.pictures.values()):
        return nothing("LS2023", folder=str(train_data_dir), count=len(reader.folder.pictures))
    reader.from_caption_files()
    return reader.finish(str(train_data_dir / "*.txt"))
