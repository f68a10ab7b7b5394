"""YAML to ``RunConfig``, or every problem at once with file, line and column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from lora_scripts.core.lookup import did_you_mean
from lora_scripts.core.problems import Location, Problem, ProblemsError, raise_errors

from .document import Document, Key, PlainValues, read_document, tree_of
from .schema import DEFAULTS, OWN_RATE, OWN_SCHEDULE, RATES, TASK_ALIASES, RunConfig, foreign_keys, section_of

EXCLUSIVE = (("epochs", "max_steps"), ("validation.data_dir", "validation.split"))


def load_config(
    path: Path | None, *, overrides: Sequence[str] = (), output_dir: str | None = None
) -> RunConfig:
    """Reads ``path`` and lays ``key=value`` overrides over it.

    Raises ``ProblemsError`` with everything that is wrong in the file and in the overrides.
    """
    problems: list[Problem] = []
    document = read_document(path, problems) if path else Document()
    _apply_overrides(document, overrides, problems)
    if output_dir is not None:
        document.values["output_dir"] = output_dir
        document.places["output_dir",] = Location("--output-dir")
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
    document = Document(dict(values), {(): Location(source)})
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


def _apply_overrides(document: Document, given: Sequence[str], problems: list[Problem]) -> None:
    for text in given:
        shown = f"--set {text}"
        dotted, equals, raw = text.partition("=")
        if not equals or not dotted.strip():
            problems.append(Problem("LS1011", {"text": text}, Location("--set")))
            continue
        try:
            value = PlainValues(shown, {}, problems).of(tree_of(raw, shown, problems), ())
        except (ProblemsError, RecursionError):
            value = PlainValues(shown, {}, problems).of(raw, ())
        key = tuple(dotted.strip().split("."))
        if value is not None:  # to leave one of two exclusive keys unset says nothing of the other
            _displace(document, dotted.strip())
        target = document.values
        for part in key[:-1]:
            child = target.get(part)
            if not isinstance(child, dict):
                child = target[part] = {}
            target = child
        target[key[-1]] = value
        for length in range(1, len(key)):
            document.places.setdefault(key[:length], Location(shown))
        document.places[key] = Location(shown)


def _displace(document: Document, dotted: str) -> None:
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


def _check_exclusive(document: Document, problems: list[Problem]) -> None:
    for first, second in EXCLUSIVE:
        if document.has(first) and document.has(second) and not _is_null(document, first, second):
            where = document.place(tuple(second.split(".")))
            problems.append(Problem("LS1009", {"first": first, "second": second}, where))


def _is_null(document: Document, *dotted: str) -> bool:
    def value(name: str) -> Any:
        target: Any = document.values
        for part in name.split("."):
            target = target.get(part) if isinstance(target, dict) else None
        return target

    return any(value(name) is None for name in dotted)


def _fill_in(document: Document) -> None:
    """What depends on the task where nothing is said. A text file's folder is the one that it lies in."""
    values = document.values
    task = values.get("task_type", "image-generation")
    task = TASK_ALIASES.get(task, task) if isinstance(task, str) else None
    optimizer = str(values.get("optimizer"))
    if optimizer in OWN_RATE:
        values.setdefault("learning_rate", OWN_RATE[optimizer])
    for key, value in DEFAULTS.get(str(task), {}).items():
        if key != "epochs":
            values.setdefault(key, value)
        elif values.get("epochs") is None and values.get("max_steps") is None:
            values["epochs"] = value
    if "train_data_dir" not in values:
        datasets = values.get("datasets")
        entry = datasets[0] if isinstance(datasets, list) and datasets else None
        first = entry.get("path") if isinstance(entry, dict) else None
        given = values.get("metadata_path") or first
        if task == "text-generation" and isinstance(given, str):
            values["train_data_dir"] = str(Path(given).parent)
        elif task == "image-generation" and isinstance(first, str):
            values["train_data_dir"] = first


def _validate(document: Document, problems: list[Problem]) -> RunConfig | None:
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


def _optimizer(config: RunConfig, document: Document) -> list[Problem]:
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


def _translate(item: Any, document: Document) -> tuple[Problem, Key]:
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
