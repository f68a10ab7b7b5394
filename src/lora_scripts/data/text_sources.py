"""Text data sets as a stream of ``TextExample``, and everything that is wrong with them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from ..core.files import sha256_of
from ..core.lookup import did_you_mean
from ..core.problems import Location, Problem, ProblemsError
from .chat import TextExample
from .json_rows import RawRow, rows_of_lines, rows_of_list
from .row_faults import Findings, RowFault
from .table_rows import parquet_columns, rows_of_parquet, rows_of_table, unreadable
from .text_columns import ROLES, Layout, layout_of
from .text_files import listing, printable, read_text
from .text_forms import convert, form_of, form_title, placeholders
from .text_lines import WHOLE, Scan, is_damaged, lines, scan, whole_text
from .text_places import Place, find
from .text_turns import kind_of

KINDS = 1000
"""Different sets of columns of one file that are remembered."""


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
    SHA-256) can be had before; a folder of documents has one hash of all. Paths are as the user wrote them.
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
            if isinstance(place, Place) and place.documents:
                digest = hashlib.sha256()
                for path in place.files:
                    digest.update(f"{path.name}\0{self._scan(path).sha256}\0".encode("utf-8", "replace"))
                found[place.name] = digest.hexdigest()
            elif isinstance(place, Place):
                found |= {str(path): sha for path in place.files if (sha := self._hash(path))}
        return found

    @cached_property
    def _places(self) -> list[Place | list[Problem]]:
        places: list[Place | list[Problem]] = []
        for source in self.sources:
            try:
                places.append(find(source.path))
            except ProblemsError as error:
                places.append(error.problems)
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
            if not isinstance(place, Place):
                self._findings.problems += place
                continue
            self._findings.problems += place.notes
            wrong = _check_roles(source)
            self._findings.problems += wrong
            if wrong:
                continue
            if place.documents:
                yield from self._documents(source, place)
                continue
            for path in place.files:
                reader = _File(self, source, path)
                yield from reader.examples()

    def _documents(self, source: TextSource, place: Place) -> Iterator[TextExample]:
        self.forms[place.name] = "text"
        count = 0
        for path in place.files:
            text, problems = read_text(path)
            self._findings.problems += problems
            if text is None:
                continue
            where = Location(str(path), 1)
            layout = Layout("text", {"text": "text"})
            try:
                example = convert({"text": text}, layout, where, weight=source.weight)
            except RowFault as fault:
                self._findings.add(fault, str(path), 1, text[:200])
                continue
            count += 1
            yield example
        self.counts[place.name] = count
        if not count and not any(p.severity == "error" for p in self.problems):
            self._findings.problems.append(_nothing(place.name))


def _check_roles(source: TextSource) -> list[Problem]:
    place = Location(source.path)
    return [
        Problem(
            "LS2115",
            {
                "role": printable(role),
                "near": did_you_mean(role, ROLES) or "prompt",
                "roles": ", ".join(ROLES),
            },
            place,
        )
        for role in source.columns
        if role not in ROLES
    ]


def _nothing(file: str) -> Problem:
    return Problem("LS2119", {"file": printable(file, 200)}, Location(file, 1))


class _File:
    """One file on its way to examples: its form is that of its first row, and all others must have it."""

    def __init__(self, texts: Texts, source: TextSource, path: Path) -> None:
        self.texts = texts
        self.source = source
        self.path = path
        self.name = str(path)
        self.layouts: dict[tuple[str, ...], Layout | RowFault] = {}
        self.first: tuple[str, int, str] | None = None
        self.others: dict[str, tuple[int, str]] = {}
        self.strange: set[tuple[str, ...]] = set()
        self.blanks: dict[str, int] = {}
        self.with_blanks = self.first_blank = 0
        self.rows = self.count = 0

    @property
    def findings(self) -> Findings:
        return self.texts._findings

    def say(self, code: str, params: Mapping[str, Any], line: int, severity: Any = "error") -> None:
        self.findings.problems.append(Problem(code, params, Location(self.name, line), severity))

    def examples(self) -> Iterator[TextExample]:
        for line, value, raw in self._rows():
            self.rows += 1
            try:
                example = self._example(line, value, raw)
            except RowFault as fault:
                self._bad(fault, line, value, raw)
                continue
            if example is not None:
                self.count += 1
                yield example
        self._finish()

    def _example(self, line: int, value: Any, raw: str) -> TextExample | None:
        if isinstance(value, RowFault):
            raise value
        if not isinstance(value, Mapping):
            raise RowFault("LS2128", kind=kind_of(value))
        layout = self._layout(tuple(value))
        form = form_of(value, layout)
        if self.first is None:
            self.first = (form, line, raw[:200])
        elif form != self.first[0]:
            self.others.setdefault(form, (line, raw[:200]))
            return None
        where = Location(self.name, line)
        example = convert(value, layout, where, weight=self.source.weight, system=self.texts.system)
        found = placeholders(example)
        if found:
            self.with_blanks += 1
            self.first_blank = self.first_blank or line
            self.blanks |= dict.fromkeys(found, 1)
        return example

    def _bad(self, fault: RowFault, line: int, value: Any, raw: str) -> None:
        """Rows without a known form are often all alike: the first of each kind speaks for the others."""
        again = False
        if fault.code in ("LS2111", "LS2112", "LS2114") and isinstance(value, Mapping):
            keys = tuple(value)
            again = keys in self.strange
            if len(self.strange) < KINDS:
                self.strange.add(keys)
        self.findings.add(fault, self.name, line, raw, told=again)

    def _layout(self, keys: tuple[str, ...]) -> Layout:
        if keys not in self.layouts:
            try:
                self.layouts[keys] = layout_of(keys, self.source.columns)
            except RowFault as fault:
                if len(self.layouts) > KINDS:
                    raise
                self.layouts[keys] = fault
        layout = self.layouts[keys]
        if isinstance(layout, RowFault):
            # The same exception again would carry every earlier traceback along.
            raise layout.with_traceback(None)
        return layout

    def _rows(self) -> Iterator[RawRow]:
        kind = self.path.suffix.lower()
        if kind == ".parquet":
            yield from self._parquet()
            return
        found = self.texts._scan(self.path)
        self.findings.problems += found.problems
        if found.encoding is None:
            self.rows = -1
            return
        if kind == ".json":
            if self.path.stat().st_size > WHOLE:
                self.rows = -1
                self.say("LS2106", {"file": printable(self.path.name), "limit": WHOLE >> 30}, 1)
                return
            rows = rows_of_list(whole_text(self.path, found), self._is_row)
        elif kind == ".jsonl":
            rows = rows_of_lines(lines(self.path, found))
        else:
            rows = rows_of_table(lines(self.path, found), "\t" if kind == ".tsv" else None)
        for line, value, raw in rows:
            if found.damaged and is_damaged(raw):
                value = RowFault("LS2163")
            yield line, value, raw

    def _parquet(self) -> Iterator[RawRow]:
        try:
            names = parquet_columns(self.path)
            try:
                layout = layout_of(names, self.source.columns)
                wanted = [
                    name for name in names if name in layout.columns.values() or name in ("label", "kto_tag")
                ]
            except RowFault as fault:
                yield 1, fault, listing(names, 12)
                return
            yield from rows_of_parquet(self.path, wanted)
        except ProblemsError as error:
            self.rows = -1
            self.findings.problems += error.problems

    def _is_row(self, value: Any) -> bool:
        if not isinstance(value, Mapping):
            return False
        try:
            layout_of(tuple(value), self.source.columns)
        except RowFault:
            return False
        return True

    def _finish(self) -> None:
        name = printable(self.path.name)
        if self.first is not None:
            form, first, shown = self.first
            self.texts.forms[self.name] = form
            for other, (line, raw) in self.others.items():
                params = {
                    "file": name,
                    "form": form_title(form),
                    "line": first,
                    "row": printable(shown.strip()),
                    "other": form_title(other),
                    "other_line": line,
                    "other_row": printable(raw.strip()),
                }
                self.say("LS2110", params, line)
        self.texts.counts[self.name] = self.count
        if self.with_blanks:
            names = listing(sorted(self.blanks))
            self.say(
                "LS2170", {"count": self.with_blanks, "names": names}, self.first_blank, severity="warning"
            )
        if self.rows == 0:
            self.say("LS2118", {"file": name}, 1)
        elif self.rows > 0 and not self.count and self.texts._skip:
            self.findings.problems.append(_nothing(self.name))


__all__ = ["TextSource", "Texts", "form_title", "open_texts", "unreadable"]
