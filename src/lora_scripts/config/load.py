"""YAML to ``RunConfig``, or every problem at once with file, line and column."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from lora_scripts.core.lookup import did_you_mean
from lora_scripts.core.problems import Location, Problem, ProblemsError, raise_errors

from .schema import DEFAULTS, OWN_RATE, OWN_SCHEDULE, RATES, TASK_ALIASES, RunConfig, foreign_keys, section_of

EXCLUSIVE = (("epochs", "max_steps"), ("validation.data_dir", "validation.split"))
MAX_CONFIG_BYTES = 1_000_000
FULL_WIDTH_KEY = re.compile(r"\s*[\w.-]+\s*：")
Key = tuple[str | int, ...]


@dataclass
class _Document:
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


def load_config(
    path: Path | None, *, overrides: Sequence[str] = (), output_dir: str | None = None
) -> RunConfig:
    """Reads ``path`` and lays ``key=value`` overrides over it.

    Raises ``ProblemsError`` with everything that is wrong in the file and in the overrides.
    """
    problems: list[Problem] = []
    document = _read_file(path, problems) if path else _Document()
    given = [(text, f"--set {text}") for text in overrides]
    if output_dir is not None:
        given.append((f"output_dir={_quoted(output_dir)}", "--output-dir"))
    _apply_overrides(document, given, problems)
    _check_exclusive(document, problems)
    config = _validate(document, problems)
    raise_errors(sorted(problems, key=_by_place))
    assert config is not None
    return config


def _by_place(problem: Problem) -> tuple[int, int]:
    where = problem.where
    return (where.line or 0, where.column or 0) if where else (0, 0)


def from_values(values: Mapping[str, Any], source: str) -> RunConfig:
    """A config from plain values, such as a LoRA's header; ``source`` is named in problems."""
    document = _Document(dict(values), {(): Location(source)})
    problems: list[Problem] = []
    config = _validate(document, problems)
    raise_errors(problems)
    assert config is not None
    return config


def dump_yaml(values: Mapping[str, Any]) -> str:
    import io

    from ruamel.yaml import YAML

    stream = io.StringIO()
    yaml: Any = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.allow_unicode = True
    yaml.sort_base_mapping_type_on_output = False
    yaml.dump(dict(values), stream)
    return stream.getvalue()


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _read_file(path: Path, problems: list[Problem]) -> _Document:
    name = str(path)
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise ProblemsError(Problem("LS1012", {"path": name}))
        raw = path.read_bytes()
    except OSError as error:
        raise ProblemsError(
            Problem("LS1001", {"path": name, "reason": error.strerror or str(error)})
        ) from None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ProblemsError(Problem("LS1002", {}, Location(name, line))) from None
    return _parse(text, name, problems)


def _parse(text: str, name: str, problems: list[Problem]) -> _Document:
    from ruamel.yaml import YAML
    from ruamel.yaml.constructor import DuplicateKeyError
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    document = _Document(places={(): Location(name)})
    try:
        tree = YAML(typ="rt", pure=True).load(text)
    except DuplicateKeyError as error:
        mark = error.problem_mark
        key = re.search(r'found duplicate key "([^"]*)"', str(error.problem or ""))
        problems.append(Problem("LS1005", {"key": key[1] if key else "?"}, _at(name, mark)))
        yaml = YAML(typ="rt", pure=True)
        yaml.allow_duplicate_keys = True
        tree = yaml.load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise ProblemsError(_syntax(text, name, mark, error)) from None
    except (YAMLError, ValueError, RecursionError) as error:
        detail = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ProblemsError(Problem("LS1003", {"detail": detail}, Location(name))) from None
    if tree is None:
        tree = {}
    if not isinstance(tree, Mapping):
        raise ProblemsError(Problem("LS1004", {}, Location(name, 1)))
    document.values = _plain(tree, name, (), document.places)
    return document


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


def _plain(node: Any, name: str, key: Key, places: dict[Key, Location]) -> Any:
    """ruamel's tree as plain Python values; the place of every key goes into ``places``."""
    marks: Any = getattr(node, "lc", None)
    if isinstance(node, Mapping):
        result = {}
        for child, value in node.items():
            text = str(child)
            line, column = marks.key(child)
            places[(*key, text)] = Location(name, line + 1, column + 1)
            result[text] = _plain(value, name, (*key, text), places)
        return result
    if isinstance(node, list):
        items = []
        for index, value in enumerate(node):
            line, column = marks.item(index)
            places[(*key, index)] = Location(name, line + 1, column + 1)
            items.append(_plain(value, name, (*key, index), places))
        return items
    for kind in (bool, int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return None if node is None else str(node)


def _apply_overrides(document: _Document, given: Sequence[tuple[str, str]], problems: list[Problem]) -> None:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    for text, shown in given:
        dotted, equals, raw = text.partition("=")
        if not equals or not dotted.strip():
            problems.append(Problem("LS1011", {"text": text}, Location("--set")))
            continue
        try:
            value = _plain(YAML(typ="rt", pure=True).load(raw), shown, (), {})
        except (YAMLError, ValueError):
            value = raw
        key = tuple(dotted.strip().split("."))
        _displace(document, dotted.strip())
        target = document.values
        for part in key[:-1]:
            child = target.get(part)
            if not isinstance(child, dict):
                child = target[part] = {}
            target = child
        target[key[-1]] = value
        document.places[key] = Location(shown)


def _displace(document: _Document, dotted: str) -> None:
    """An override of one of two exclusive keys takes the other one's place."""
    for pair in EXCLUSIVE:
        if dotted in pair:
            other = tuple(pair[1 - pair.index(dotted)].split("."))
            target: Any = document.values
            for part in other[:-1]:
                target = target.get(part, {})
            if isinstance(target, dict) and other in document.places:
                del document.places[other]
                target.pop(other[-1], None)


def _check_exclusive(document: _Document, problems: list[Problem]) -> None:
    for first, second in EXCLUSIVE:
        if document.has(first) and document.has(second) and not _is_null(document, first, second):
            where = document.place(tuple(second.split(".")))
            problems.append(Problem("LS1009", {"first": first, "second": second}, where))


def _is_null(document: _Document, *dotted: str) -> bool:
    def value(name: str) -> Any:
        target: Any = document.values
        for part in name.split("."):
            target = target.get(part) if isinstance(target, dict) else None
        return target

    return any(value(name) is None for name in dotted)


def _fill_in(document: _Document) -> None:
    """What depends on the task where nothing is said. A text file's folder is the one that it lies in."""
    values = document.values
    task = values.get("task_type", "image-generation")
    task = TASK_ALIASES.get(task, task) if isinstance(task, str) else None
    optimizer = str(values.get("optimizer"))
    if optimizer in OWN_RATE:
        values.setdefault("learning_rate", OWN_RATE[optimizer])
    for key, value in DEFAULTS.get(str(task), {}).items():
        if key != "epochs" or values.get("max_steps") is None:
            values.setdefault(key, value)
    if "train_data_dir" not in values:
        datasets = values.get("datasets")
        entry = datasets[0] if isinstance(datasets, list) and datasets else None
        first = entry.get("path") if isinstance(entry, dict) else None
        given = values.get("metadata_path") or first
        if task == "text-generation" and isinstance(given, str):
            values["train_data_dir"] = str(Path(given).parent)
        elif task == "image-generation" and isinstance(first, str):
            values["train_data_dir"] = first


def _validate(document: _Document, problems: list[Problem]) -> RunConfig | None:
    _fill_in(document)
    try:
        config = RunConfig.model_validate(document.values)
    except ValidationError as error:
        seen: set[tuple[str, Key]] = set()
        for item in error.errors(include_url=False):
            problem, key = _translate(item, document)
            if (problem.code, key) not in seen:
                seen.add((problem.code, key))
                problems.append(problem)
        return None
    if config.text_encoder_learning_rate is not None and not config.train_text_encoder:
        where = document.place(("text_encoder_learning_rate",))
        problems.append(Problem("LS1010", {}, where))
    problems += _optimizer(config, document)
    foreign = foreign_keys(config.task_type)
    for key, where in document.places.items():
        if ".".join(part for part in key if isinstance(part, str)) in foreign:
            told = {"key": ".".join(map(str, key)), "task": config.task_type}
            problems.append(Problem("LS1022", told, where))
    return config


def _optimizer(config: RunConfig, document: _Document) -> list[Problem]:
    """Rates and schedules that make no sense for the optimizer that is to use them."""
    found = []
    lowest, highest = RATES[config.optimizer]
    for key in ("learning_rate", "text_encoder_learning_rate"):
        rate = getattr(config, key)
        if rate is not None and not lowest <= rate <= highest:
            told = {
                "key": key, "rate": f"{rate:g}", "optimizer": config.optimizer,
                "advice": f"{OWN_RATE.get(config.optimizer, DEFAULTS[config.task_type]['learning_rate']):g}",
            }  # fmt: skip
            found.append(Problem("LS1024", told, document.place((key,))))
    if config.optimizer in OWN_SCHEDULE and config.lr_scheduler != "constant":
        told = {"optimizer": config.optimizer, "schedule": config.lr_scheduler}
        found.append(Problem("LS1025", told, document.place(("lr_scheduler",))))
    return found


def _model_at(key: Key) -> type[BaseModel] | None:
    model: type[BaseModel] = RunConfig
    for part in key:
        if isinstance(part, int):
            continue
        info = model.model_fields.get(part)
        section = section_of(info.annotation) if info else None
        if section is None:
            return None
        model = section
    return model


def _translate(item: Any, document: _Document) -> tuple[Problem, Key]:
    """One of pydantic's errors as a problem of ours, and the user's key that it is about."""
    known = {str(part) for part in item["loc"] if (*_prefix(item["loc"], part), part) in document.places}
    key: Key = tuple(part for part in item["loc"] if isinstance(part, int) or part in known)
    kind = item["type"]
    if kind == "extra_forbidden":
        key = tuple(item["loc"])
        model = _model_at(key[:-1]) or RunConfig
        near = did_you_mean(str(key[-1]), model.model_fields)
        params = {"key": ".".join(map(str, key)), "suggestion": near or ""}
        return Problem("LS1006" if near else "LS1007", params, document.place(key)), key
    if kind == "missing":
        key = tuple(item["loc"])
        return Problem("LS1008", {"key": ".".join(map(str, key))}, document.places.get(())), key
    if kind == "control_character":
        return Problem("LS1015", {"key": ".".join(map(str, key))}, document.place(key)), key
    params = {
        "key": ".".join(map(str, key)),
        "value": _short(item.get("input")),
        "expected": _expected(item, key),
    }
    return Problem("LS1016", params, document.place(key)), key


def _prefix(loc: Sequence[str | int], part: str | int) -> Key:
    return tuple(loc[: list(loc).index(part)])


def _short(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _expected(item: Any, key: Key) -> str:
    """What the key takes, in the user's language."""
    from .reference import describe_type

    model = _model_at(key[:-1]) if key else None
    info = model.model_fields.get(str(key[-1])) if model else None
    if info is None:
        return str(item["msg"])
    return describe_type(info)
