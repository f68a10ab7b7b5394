"""Bad rows: each by file and line, all at once, and not a million of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..core.problems import Location, Problem
from .text_files import printable

SHOWN = 100
"""Bad rows that are named; the rest is counted."""


class RowFault(Exception):  # noqa: N818 - a finding about the user's row, which readers also pass on as a value
    """What is wrong with one row. ``at_line`` and ``at_column`` where the place is not the row's own."""

    def __init__(
        self, code: str, *, at_line: int | None = None, at_column: int | None = None, **params: Any
    ) -> None:
        super().__init__(code)
        self.code, self.at_line, self.at_column, self.params = code, at_line, at_column, params


@dataclass
class Findings:
    """Everything there is to say about some sources. With ``skip``, bad rows are left out and counted, one
    warning for each kind and file; else each is an error."""

    skip: bool = False
    problems: list[Problem] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    _rows: list[Problem] = field(default_factory=list)
    _hidden: int = 0
    _first_hidden: Location | None = None
    _kinds: dict[tuple[str, str], tuple[int, Problem]] = field(default_factory=dict)

    def add(self, fault: RowFault, file: str, line: int, raw: str, *, told: bool = False) -> None:
        """``line`` and ``raw``: the row's own. ``told``: another row has said the same already."""
        self.left_out[file] = self.left_out.get(file, 0) + 1
        if told and not self.skip:
            return
        if not self.skip and len(self._rows) >= SHOWN:
            self._hidden += 1
            self._first_hidden = self._first_hidden or Location(file, line)
            return
        at = fault.at_line or line
        params = {"line": at, "row": printable(raw.strip()) or '""', **fault.params}
        problem = Problem(fault.code, params, Location(file, at, fault.at_column))
        if self.skip:
            count, first = self._kinds.get((file, fault.code), (0, problem))
            self._kinds[file, fault.code] = (count + 1, first)
        else:
            self._rows.append(problem)

    def all(self) -> list[Problem]:
        """File by file problems first, then rows in their order, then how many more there are."""
        found = [*self.problems, *self._rows]
        for (file, _), (count, first) in self._kinds.items():
            params = {"count": count, "file": printable(file), "first": first}
            found.append(Problem("LS2190", params, first.where, "warning"))
        if self._hidden:
            params = {"count": self._hidden, "shown": SHOWN}
            found.append(Problem("LS2191", params, self._first_hidden))
        return found
