"""One damaged input, how it is judged, and how any of them is made again from its number."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from lora_scripts.core.catalogue import LANGUAGES, fix, message, render
from lora_scripts.core.problems import Problem

LONGEST = 3000
"""Characters of one message at most, whatever the file holds: more is a file printed and not explained."""
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""What a terminal would obey."""
CHINESE = re.compile(r"[\u4e00-\u9fff\uff0c\uff1a]")


class WrongAnswerError(Exception):
    """The product took an input in a way that it must not; the message says in which."""


@dataclass(frozen=True)
class Case:
    """``files``: relative name -> content; ``main``: the one that is damaged. ``told``: what was done to it.
    ``expected``: codes of which one has to be said, at ``line`` where there is one. ``options``: for the
    reader. ``size``: bytes to which ``main`` is stretched with a hole that takes no room on disk."""

    files: Mapping[str, bytes]
    main: str
    told: str
    expected: frozenset[str] = frozenset()
    line: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    size: int = 0

    def write(self, folder: Path) -> Path:
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        if self.size:
            with open(folder / self.main, "r+b") as handle:
                handle.truncate(self.size)
        return folder / self.main


class Kind(Protocol):
    """A module of this package: a kind of input."""

    NAME: str

    def make(self, number: int, chance: random.Random) -> Case: ...

    def run(self, case: Case, folder: Path) -> list[Problem]:
        """Gives the input to the product, and everything that was said of it. Raises ``WrongAnswerError``
        where what was said or done is wrong; any other exception is a traceback of ours."""
        ...


def case_of(kind: Kind, seed: int, number: int) -> Case:
    return kind.make(number, random.Random(f"{seed}/{kind.NAME}/{number}"))


def judge(
    problems: Iterable[Problem], case: Case, *, whole_file: frozenset[str], names: Iterable[str]
) -> None:
    """Every problem has a place and a remedy in both languages, and what had to be said was said.

    ``whole_file``: codes that are about a file or folder and so have no line. ``names``: of files and
    folders, one of which has to stand in a message.
    """
    found = list(problems)
    known = tuple(names)
    for problem in found:
        for language in LANGUAGES:
            _said_well(problem, language, known)
        if problem.code not in whole_file and (problem.where is None or problem.where.line is None):
            raise WrongAnswerError(f"no line: {render(problem)}")
    if case.expected and not any(_meets(problem, case) for problem in found):
        said = ", ".join(problem.code for problem in found) or "nothing"
        at = f" at line {case.line}" if case.line else ""
        raise WrongAnswerError(f"swallowed: {'/'.join(sorted(case.expected))}{at} expected, {said} said")


def _meets(problem: Problem, case: Case) -> bool:
    at = problem.where.line if problem.where else None
    return problem.code in case.expected and (case.line is None or at == case.line)


def _said_well(problem: Problem, language: str, names: tuple[str, ...]) -> None:
    text, remedy = message(problem, language), fix(problem, language)
    shown = render(problem, language)
    if not text.strip() or not remedy.strip():
        raise WrongAnswerError(f"no remedy ({language}): {shown!r}")
    if CONTROL.search(shown):
        raise WrongAnswerError(f"control characters ({language}): {shown!r}")
    if len(shown) > LONGEST:
        raise WrongAnswerError(f"{len(shown)} characters ({language}): {shown[:200]!r}")
    if language == "zh" and not (CHINESE.search(text) and CHINESE.search(remedy)):
        raise WrongAnswerError(f"not in Chinese: {shown!r}")
    if not any(name in shown for name in names):
        raise WrongAnswerError(f"no place ({language}): {shown!r}")
