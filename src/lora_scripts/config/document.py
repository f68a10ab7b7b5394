"""A YAML file as plain values with the place of each, or what is wrong with it as YAML."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lora_scripts.core.catalogue import say
from lora_scripts.core.problems import Location, Problem, ProblemsError

MAX_CONFIG_BYTES = 1_000_000
MAX_VALUES = 100_000
"""Values in a configuration once its aliases are unfolded: a few lines of them can stand for billions."""
MAX_BITS = 4096
"""Of a whole number that is kept as one: Python writes no longer ones in decimal digits."""
FULL_WIDTH_KEY = re.compile(r"\s*[\w.-]+\s*：")
_OPENED = re.compile(r"(?:[\[{]\s*){100}")
"""Deeper than anyone nests, and the parser takes seconds to find that out."""
Key = tuple[str | int, ...]


@dataclass
class Document:
    """Plain values, and where in the user's file or command line each key stands."""

    values: dict[str, Any] = field(default_factory=dict)
    places: dict[Key, Location] = field(default_factory=dict)

    def place(self, key: Key) -> Location | None:
        for length in range(len(key), -1, -1):
            if found := self.places.get(key[:length]):
                return found
        return None

    def has(self, dotted: str) -> bool:
        return tuple(dotted.split(".")) in self.places


def read_document(path: Path, problems: list[Problem]) -> Document:
    """What is wrong with single keys goes into ``problems``; raises ProblemsError where nothing can be read:
    LS1001 to LS1004, LS1012 to LS1014."""
    name = str(path)
    try:
        with open(path, "rb") as handle:
            raw = handle.read(MAX_CONFIG_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ProblemsError(Problem("LS1001", {"path": name, "reason": reason})) from None
    if len(raw) > MAX_CONFIG_BYTES:
        raise ProblemsError(Problem("LS1012", {"path": name}))
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ProblemsError(Problem("LS1002", {}, Location(name, line))) from None
    return _parse(text, name, problems)


def _parse(text: str, name: str, problems: list[Problem]) -> Document:
    document = Document(places={(): Location(name)})
    tree = tree_of(text, name, problems)
    if tree is not None and not isinstance(tree, Mapping):
        raise ProblemsError(Problem("LS1004", {}, Location(name, 1)))
    try:
        document.values = PlainValues(name, document.places, problems).of(tree or {}, ())
    except RecursionError:  # an alias inside of what it stands for
        raise ProblemsError(_too_deep(text, name)) from None
    return document


def tree_of(text: str, name: str, problems: list[Problem]) -> Any:
    """ruamel's tree, in which the first of equal keys counts; they are in ``problems``. Raises ProblemsError
    LS1003, LS1013 or LS1014 where there is no tree."""
    from ruamel.yaml import YAML, MappingNode, RoundTripConstructor, ScalarNode
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    if _OPENED.search(text):
        raise ProblemsError(_too_deep(text, name))
    mark: Any = None

    class Placed(RoundTripConstructor):
        """Remembers where it is, since not every error of a value says it, and writes no value out to name
        it: aliases can make one as long as a disk."""

        def construct_object(self, node: Any, deep: bool = False) -> Any:
            nonlocal mark
            mark = node.start_mark
            for key, _ in node.value if isinstance(node, MappingNode) else ():
                if not isinstance(key, ScalarNode):
                    told = {"detail": say("config.odd_key")}
                    raise ProblemsError(Problem("LS1003", told, _at(name, key.start_mark)))
            return super().construct_object(node, deep)

        def check_mapping_key(self, node: Any, key_node: Any, mapping: Any, key: Any, value: Any) -> bool:
            if key in mapping:
                problems.append(Problem("LS1005", {"key": key_node.value}, _at(name, key_node.start_mark)))
            return key not in mapping

        def check_set_key(self, node: Any, key_node: Any, setting: Any, key: Any) -> None:
            """What stands in a set twice is there once."""

    yaml = YAML(typ="rt", pure=True)
    yaml.Constructor = Placed
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an anchor that is used again
            return yaml.load(text)
    except MarkedYAMLError as error:
        problem = _syntax(text, name, error.problem_mark or error.context_mark or mark, error)
    except RecursionError:
        problem = _too_deep(text, name)
    except (YAMLError, ValueError, LookupError, TypeError, AttributeError, AssertionError) as error:
        # Values that no type takes, characters that YAML has not, and the library's slips over odd tags.
        detail = (str(error) or type(error).__name__).splitlines()[0]
        line = text.count("\n", 0, getattr(error, "position", 0)) + 1
        problem = Problem("LS1003", {"detail": detail}, _at(name, mark) if mark else Location(name, line))
    raise ProblemsError(problem)


def _too_deep(text: str, name: str) -> Problem:
    """Where most is opened: only what stands in one line goes so deep."""
    lines = text.splitlines()
    opened = [sum(line.count(mark) for mark in "[{-?") for line in lines]
    line = max(range(len(lines)), key=opened.__getitem__) + 1
    return Problem("LS1003", {"detail": say("config.too_deep")}, Location(name, line))


def _at(name: str, mark: Any) -> Location:
    return Location(name, mark.line + 1, mark.column + 1) if mark else Location(name)


def _syntax(text: str, name: str, mark: Any, error: Any) -> Problem:
    """The plainest true sentence about a syntax error: a known habit first, the parser's words else."""
    lines = text.splitlines()
    last = min(mark.line, len(lines) - 1) if mark else -1
    for number in range(last, max(-1, last - 2), -1):
        if FULL_WIDTH_KEY.match(lines[number]):
            return Problem("LS1013", {"text": lines[number].strip()}, Location(name, number + 1))
        if "\t" in lines[number][: len(lines[number]) - len(lines[number].lstrip())]:
            return Problem("LS1014", {}, Location(name, number + 1))
    detail = str(error.problem or error.context or "").strip()
    return Problem("LS1003", {"detail": detail}, _at(name, mark))


@dataclass
class PlainValues:
    """ruamel's trees as plain Python values; the place of every key goes into ``places``."""

    name: str
    places: dict[Key, Location]
    problems: list[Problem]
    count: int = 0

    def of(self, node: Any, key: Key) -> Any:
        """Raises ProblemsError LS1003 where aliases stand for more than ``MAX_VALUES`` values."""
        self.count += 1
        if self.count > MAX_VALUES:
            told = {"detail": say("config.too_many", limit=f"{MAX_VALUES:,}")}
            raise ProblemsError(Problem("LS1003", told, self._place(key)))
        if isinstance(node, Mapping):
            return self._mapping(node, key)
        if isinstance(node, Set):
            node = list(node)
        if isinstance(node, list | tuple):
            marks: Any = getattr(node, "lc", None)
            items = []
            for index, value in enumerate(node):
                place = _placed(self.name, marks.item, index) if marks else None
                self.places[(*key, index)] = place or self._place(key)
                items.append(self.of(value, (*key, index)))
            return items
        if isinstance(node, int) and not isinstance(node, bool) and node.bit_length() > MAX_BITS:
            return hex(node)
        for kind in (bool, int, float):
            if isinstance(node, kind):
                return kind(node)
        return None if node is None else self._text(str(node), key)

    def _text(self, text: str, key: Key) -> str:
        """A lone surrogate, which an escape in quotes can write, is no text that a file can hold."""
        whole = text.encode("utf-8", "replace").decode()
        if whole != text:
            self.problems.append(Problem("LS1003", {"detail": say("config.half")}, self._place(key)))
        return whole

    def _mapping(self, node: Any, key: Key) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for child, value in node.items():
            place = _placed(self.name, node.lc.key, child) or self._place(key)
            text = self._text(str(child), key)
            if text in result:  # 1 and "1" are two keys of YAML's and one of ours
                self.problems.append(Problem("LS1005", {"key": text}, place))
            self.places[(*key, text)] = place
            result[text] = self.of(value, (*key, text))
        return result

    def _place(self, key: Key) -> Location:
        """Of the nearest key around ``key`` whose place is known."""
        around = (
            self.places[key[:length]] for length in range(len(key), 0, -1) if key[:length] in self.places
        )
        return next(around, Location(self.name, 1 if () in self.places else None))


def _placed(name: str, find: Callable[[Any], tuple[int, int] | None], child: Any) -> Location | None:
    """None for a key that comes from elsewhere, through ``<<``."""
    try:
        found = find(child)
    except KeyError:
        return None
    return Location(name, found[0] + 1, found[1] + 1) if found else None
