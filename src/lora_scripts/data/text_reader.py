"""One data file on its way to examples: its form is that of its first row, and all others must have it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.problems import Location, Problem, ProblemsError, Severity
from .chat import TextExample
from .json_rows import RawRow, rows_of_lines, rows_of_list
from .row_faults import Findings, RowFault
from .table_rows import parquet_columns, rows_of_parquet, rows_of_table
from .text_columns import LABELS, Layout, layout_of
from .text_files import listing, printable
from .text_forms import convert, form_of, form_title, placeholders
from .text_lines import WHOLE, Scan, is_damaged, lines, whole_text
from .text_turns import kind_of

KINDS = 1000
"""Different sets of columns of one file that are remembered."""
_SHOWN = 200
_OF_ALL = ("LS2111", "LS2112", "LS2114", "LS2117")


@dataclass
class FileReader:
    """``path``: the file; ``columns``: role -> column as the user named them; ``found``: what a scan of its
    bytes said, None for Parquet. After ``examples``, ``form`` and ``count`` say what was read."""

    path: Path
    columns: Mapping[str, str]
    findings: Findings
    found: Scan | None
    weight: float = 1.0
    system: str | None = None
    form: str | None = None
    count: int = 0
    _first: tuple[int, str] = (0, "")
    _rows_seen: int = 0
    _unreadable: bool = False
    _layouts: dict[tuple[str, ...], Layout | RowFault] = field(default_factory=dict)
    _strange: set[tuple[str, ...]] = field(default_factory=set)
    _others: dict[str, tuple[int, str]] = field(default_factory=dict)
    _blanks: set[str] = field(default_factory=set)
    _with_blanks: int = 0
    _first_blank: int = 0

    @property
    def name(self) -> str:
        return str(self.path)

    def examples(self) -> Iterator[TextExample]:
        for line, value, raw in self._rows():
            self._rows_seen += 1
            try:
                example = self._example(line, value, raw)
            except RowFault as fault:
                self._bad(fault, line, value, raw)
                continue
            if example is not None:
                self.count += 1
                yield example
        self._finish()

    def _say(self, code: str, params: Mapping[str, Any], line: int, severity: Severity = "error") -> None:
        self.findings.problems.append(Problem(code, params, Location(self.name, line), severity))

    def _example(self, line: int, value: Any, raw: str) -> TextExample | None:
        if isinstance(value, RowFault):
            raise value
        if not isinstance(value, Mapping):
            raise RowFault("LS2128", kind=kind_of(value))
        layout = self._layout(tuple(value))
        form = form_of(value, layout)
        if self.form is None:
            self.form, self._first = form, (line, raw[:_SHOWN])
        elif form != self.form:
            self._others.setdefault(form, (line, raw[:_SHOWN]))
            return None
        where = Location(self.name, line)
        example = convert(value, layout, where, weight=self.weight, system=self.system)
        blanks = placeholders(example)
        if blanks:
            self._with_blanks += 1
            self._first_blank = self._first_blank or line
            self._blanks.update(blanks)
        return example

    def _bad(self, fault: RowFault, line: int, value: Any, raw: str) -> None:
        """Rows without a known form are often all alike: the first of each kind speaks for the others."""
        if fault.code == "LS2141" and self.found is not None and self.found.damaged:
            fault = RowFault("LS2163")
        again = False
        alike = fault.code == "LS2116" and self.path.suffix.lower() in (".csv", ".tsv")
        if (alike or fault.code in _OF_ALL) and isinstance(value, Mapping):
            keys = tuple(value)
            again = keys in self._strange
            if len(self._strange) < KINDS:
                self._strange.add(keys)
        self.findings.add(fault, self.name, line, raw, told=again)

    def _layout(self, keys: tuple[str, ...]) -> Layout:
        layout = self._layouts.get(keys)
        if layout is None:
            try:
                layout = layout_of(keys, self.columns)
            except RowFault as fault:
                layout = fault
            if len(self._layouts) < KINDS:
                self._layouts[keys] = layout
        if isinstance(layout, RowFault):
            # The same exception again would carry every earlier traceback along.
            raise layout.with_traceback(None)
        return layout

    def _rows(self) -> Iterator[RawRow]:
        try:
            yield from self._parquet() if self.found is None else self._text(self.found)
        except ProblemsError as error:
            self._unreadable = True
            self.findings.problems += error.problems
        except (OSError, UnicodeDecodeError) as error:
            self._unreadable = True
            reason = getattr(error, "strerror", None) or str(error)
            self._say("LS2013", {"file": self.path.name, "reason": reason}, self._rows_seen + 1)

    def _text(self, found: Scan) -> Iterator[RawRow]:
        self.findings.problems += found.problems
        if found.encoding is None:
            self._unreadable = True
            return
        kind = self.path.suffix.lower()
        if kind == ".json":
            if self.path.stat().st_size > WHOLE:
                params = {"file": printable(self.path.name), "limit": WHOLE >> 30}
                raise ProblemsError(Problem("LS2106", params, Location(self.name)))
            rows = rows_of_list(whole_text(self.path, found), self._is_row)
        elif kind == ".jsonl":
            rows = rows_of_lines(lines(self.path, found))
        else:
            rows = rows_of_table(lines(self.path, found), "\t" if kind == ".tsv" else None, self.columns)
        for line, value, raw in rows:
            if found.damaged and is_damaged(raw):
                value = RowFault("LS2163")
            yield line, value, raw

    def _parquet(self) -> Iterator[RawRow]:
        names = parquet_columns(self.path)
        try:
            known = set(layout_of(names, self.columns).columns.values()) | set(LABELS)
        except RowFault as fault:
            yield 1, fault, listing(names, 12)
            return
        yield from rows_of_parquet(self.path, [name for name in names if name in known])

    def _is_row(self, value: Any) -> bool:
        if not isinstance(value, Mapping):
            return False
        try:
            layout_of(tuple(value), self.columns)
        except RowFault:
            return False
        return True

    def _finish(self) -> None:
        file = printable(self.path.name)
        line, row = self._first
        for other, (other_line, other_row) in self._others.items():
            params = {
                "file": file,
                "form": form_title(self.form or ""),
                "line": line,
                "row": printable(row.strip()),
                "other": form_title(other),
                "other_line": other_line,
                "other_row": printable(other_row.strip()),
            }
            self._say("LS2110", params, other_line)
        if self._with_blanks:
            params = {"count": self._with_blanks, "names": listing(sorted(self._blanks))}
            self._say("LS2170", params, self._first_blank, "warning")
        if self._unreadable:
            return
        if not self._rows_seen:
            self._say("LS2118", {"file": file}, 1)
        elif not self.count and self.findings.skip and not self._others:
            self._say("LS2119", {"file": file}, 1)
