"""Every sentence a user reads, by stable code or key, in English and Simplified Chinese.

The texts are TOML tables in ``messages/<language>/<room>.toml``. A code such as ``LS1001`` has ``message``
and ``fix`` (one line each, with ``{params}``), ``cause`` (a paragraph) and ``example``. The table ``say``
holds what is not a problem: progress, plans, results.
"""

from __future__ import annotations

import re
import string
import tomllib
from collections.abc import Iterable
from functools import lru_cache
from importlib.resources import files
from typing import Any

from .language import LANGUAGES as LANGUAGES
from .language import language as language
from .language import use_language as use_language
from .problems import Problem, errors

EXIT_CODES = {"1": 2, "2": 3, "3": 4, "4": 2, "5": 2, "6": 5, "7": 75, "9": 1}
"""First digit of a code -> exit code: config, data, machine, model, run folder, guard, device lost, bug."""


LONGEST = 1000
"""Characters of a parameter that are shown: a file may call a key what it likes."""
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""What terminals obey, and what turns the direction of writing: both may come from a user's file."""


class _Formatter(string.Formatter):
    """``str.format`` without attribute or index access: parameters may come from a user's file."""

    def get_field(self, field_name: str, args: Any, kwargs: Any) -> tuple[Any, str]:
        return kwargs[field_name], field_name


@lru_cache
def _texts(language: str) -> dict[str, Any]:
    merged: dict[str, Any] = {"say": {}}
    folder = files("lora_scripts.core").joinpath("messages", language)
    for path in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if path.name.endswith(".toml"):
            table = tomllib.loads(path.read_text(encoding="utf-8"))
            merged["say"].update(table.pop("say", {}))
            merged.update(table)
    return merged


def codes() -> list[str]:
    return sorted(code for code in _texts("en") if code != "say")


def entry(code: str, lang: str | None = None) -> dict[str, str]:
    """The catalogue's table of ``code``; KeyError for a code that does not exist."""
    return _texts(lang or language())[code]


def _fill(text: str, params: dict[str, Any]) -> str:
    return _Formatter().vformat(text, (), params)


def _shown(value: Any, lang: str | None = None) -> Any:
    if isinstance(value, Problem):
        value = message(value, lang)
    if not isinstance(value, str):
        return value
    text = _OBEYED.sub("\N{REPLACEMENT CHARACTER}", value)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def message(problem: Problem, lang: str | None = None) -> str:
    return _about(problem, "message", lang)


def fix(problem: Problem, lang: str | None = None) -> str:
    return _about(problem, "fix", lang)


def _about(problem: Problem, part: str, lang: str | None) -> str:
    return _fill(
        entry(problem.code, lang)[part], {name: _shown(value, lang) for name, value in problem.params.items()}
    )


def say(key: str, lang: str | None = None, **params: Any) -> str:
    """The sentence ``key`` of the ``say`` tables, filled in."""
    return _fill(_texts(lang or language())["say"][key], params)


def say_keys(lang: str) -> set[str]:
    return set(_texts(lang)["say"])


def render(problem: Problem, lang: str | None = None) -> str:
    """``file:line:column CODE message`` and, on a second line, the remedy."""
    place = f"{_shown(str(problem.where))} " if problem.where else ""
    mark = "" if problem.severity == "error" else say(f"severity.{problem.severity}", lang) + " "
    return f"{place}{problem.code} {mark}{message(problem, lang)}\n    → {fix(problem, lang)}"


def exit_code(problems: Iterable[Problem]) -> int:
    """The exit code of the gravest kind of error: machine before config before data; 0 without errors."""
    found = {EXIT_CODES[problem.code[2]] for problem in errors(problems)}
    for code in (1, 75, 5, 4, 2, 3):
        if code in found:
            return code
    return 0
