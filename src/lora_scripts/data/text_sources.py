"""Text data sets as a stream of ``TextExample``, and everything that is wrong with them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from ..core.files import sha256_of
from ..core.lookup import did_you_mean
from ..core.problems import Location, Problem, ProblemsError
from .chat import TextExample
from .row_faults import Findings, RowFault
from .text_columns import ROLES, Layout, role_called
from .text_files import printable, read_text
from .text_forms import convert
from .text_lines import Scan, scan
from .text_places import Place, find
from .text_reader import FileReader


@dataclass(frozen=True)
class TextSource:
    """``path``: a file, a folder or ``owner/name`` of a hub. ``weight``: how often its rows count per epoch.
    ``columns``: role (one of ``text_columns.ROLES``) -> column, where its name does not say what it holds."""

    path: str
    weight: float = 1.0
    columns: Mapping[str, str] = field(default_factory=dict)


def open_texts(
    sources: Sequence[TextSource],
    *,
    on_bad_row: Literal["stop", "skip"] = "stop",
    system: str | None = None,
) -> Texts:
    """``system``: said where a conversation has no system turn of its own. Nothing is read yet."""
    return Texts(sources, on_bad_row, system)


class Texts:
    """The examples of all sources, in the order of files and rows. One row is in memory at a time, except of
    ``.json`` files, which are read whole.

    Iterating raises nothing for what is wrong with the data: it is in ``problems`` afterwards. So are
    ``forms`` (path -> one of ``text_forms.FORMS``) and ``counts`` (path -> usable rows). ``files`` (path ->
    SHA-256) can be had before; a folder of documents has one hash of all.
    """

    def __init__(self, sources: Sequence[TextSource], on_bad_row: str, system: str | None) -> None:
        self.sources = tuple(sources)
        self.system = system
        self._skip = on_bad_row == "skip"
        self._scans: dict[Path, Scan] = {}
        self._begin()

    def _begin(self) -> None:
        self._findings = Findings(self._skip)
        self.forms: dict[str, str] = {}
        self.counts: dict[str, int] = {}

    @property
    def problems(self) -> list[Problem]:
        """What was found so far: all of it after the last example."""
        return self._findings.all()

    @property
    def left_out(self) -> Mapping[str, int]:
        """Path -> rows that cannot be used."""
        return self._findings.left_out

    @cached_property
    def files(self) -> Mapping[str, str]:
        """Path -> SHA-256 of its bytes; without those that cannot be read."""
        found: dict[str, str] = {}
        for place in self._places:
            if not isinstance(place, Place):
                continue
            hashes = {path: sha for path in place.files if (sha := self._hash(path))}
            if place.documents:
                listed = "".join(f"{path.name}\0{sha}\0" for path, sha in hashes.items())
                found[place.name] = hashlib.sha256(listed.encode("utf-8", "surrogateescape")).hexdigest()
            else:
                found |= {str(path): sha for path, sha in hashes.items()}
        return found

    @cached_property
    def _places(self) -> list[Place | list[Problem]]:
        places: list[Place | list[Problem]] = []
        for source in self.sources:
            try:
                places.append(find(source.path))
            except ProblemsError as error:
                places.append(error.problems)
            except OSError as error:
                params = {"file": printable(source.path, 200), "reason": error.strerror or str(error)}
                places.append([Problem("LS2013", params, Location(source.path))])
        return places

    def _hash(self, path: Path) -> str:
        if path.suffix.lower() != ".parquet":
            return self._scan(path).sha256
        try:
            return sha256_of(path)
        except OSError:
            return ""

    def _scan(self, path: Path) -> Scan:
        if path not in self._scans:
            self._scans[path] = scan(path)
        return self._scans[path]

    def __iter__(self) -> Iterator[TextExample]:
        self._begin()
        for source, place in zip(self.sources, self._places, strict=True):
            wrong = _check_roles(source)
            self._findings.problems += [*(place.notes if isinstance(place, Place) else place), *wrong]
            if wrong or not isinstance(place, Place):
                continue
            if place.documents:
                yield from self._documents(source, place)
                continue
            for path in place.files:
                yield from self._file(source, path)

    def _file(self, source: TextSource, path: Path) -> Iterator[TextExample]:
        found = None if path.suffix.lower() == ".parquet" else self._scan(path)
        reader = FileReader(path, source.columns, self._findings, found, source.weight, self.system)
        yield from reader.examples()
        if reader.form is not None:
            self.forms[str(path)] = reader.form
        self.counts[str(path)] = self.counts.get(str(path), 0) + reader.count

    def _documents(self, source: TextSource, place: Place) -> Iterator[TextExample]:
        self.forms[place.name] = "text"
        layout = Layout("text", {"text": "text"})
        count = 0
        for path in place.files:
            text, problems = read_text(path)
            self._findings.problems += problems
            if text is None:
                continue
            where = Location(str(path), 1)
            try:
                example = convert({"text": text}, layout, where, weight=source.weight)
            except RowFault as fault:
                self._findings.add(fault, str(path), 1, text[:200])
                continue
            count += 1
            yield example
        self.counts[place.name] = self.counts.get(place.name, 0) + count
        if not count and self._findings.skip:
            name = printable(place.name, 200)
            self._findings.problems.append(Problem("LS2119", {"file": name}, Location(place.name, 1)))


def _check_roles(source: TextSource) -> list[Problem]:
    return [
        Problem(
            "LS1031",
            {
                "role": printable(role),
                "near": role_called(role) or did_you_mean(role, ROLES) or "prompt",
                "roles": ", ".join(ROLES),
            },
            Location(source.path),
        )
        for role in source.columns
        if role not in ROLES
    ]
