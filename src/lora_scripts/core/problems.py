"""What can be wrong, and where: the one shape of every error, warning and note."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True, order=True)
class Location:
    """A place that a user can open: a file, and a physical line and column counted from 1."""

    file: str
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        return ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)


@dataclass(frozen=True)
class Problem:
    """One finding. ``code`` names an entry of the catalogue, ``params`` fill its message; a
    finding among them stands for its own message."""

    code: str
    params: Mapping[str, Any] = field(default_factory=dict)
    where: Location | None = None
    severity: Severity = "error"

    def __post_init__(self) -> None:
        object.__setattr__(self, "params", MappingProxyType(dict(self.params)))


class ProblemsError(Exception):
    """Stops what is going on and carries everything that is wrong, so that all is said at once."""

    def __init__(self, problems: Problem | Iterable[Problem]) -> None:
        self.problems = [problems] if isinstance(problems, Problem) else list(problems)
        super().__init__("; ".join(f"{p.code} {dict(p.params)}" for p in self.problems))


def errors(problems: Iterable[Problem]) -> list[Problem]:
    return [problem for problem in problems if problem.severity == "error"]


def raise_errors(problems: Iterable[Problem]) -> None:
    """Raises ``ProblemsError`` with all of ``problems`` if one of them is an error."""
    found = list(problems)
    if errors(found):
        raise ProblemsError(found)
