"""The configuration, described from its schema: JSON schema for editors, tables for people."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from lora_scripts.core.catalogue import LANGUAGES, say

from .schema import TASK_ALIASES, PathText, RunConfig, section_of

GROUPS = {
    "task_type": "reference.group.task",
    "train_data_dir": "reference.group.data",
    "base_model": "reference.group.base",
    "lora_rank": "reference.group.lora",
    "batch_size": "reference.group.training",
    "output_dir": "reference.group.output",
}
"""The key that opens a group -> its heading; a key stands in the group in which the schema declares it."""

JSON_BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}

Bounds = dict[str, Any]


def fields(model: type[BaseModel] = RunConfig, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every key with its dotted name, in the schema's order; a section comes before its own keys."""
    for name, info in model.model_fields.items():
        yield prefix + name, info
        if section := section_of(info.annotation):
            yield from fields(section, f"{prefix}{name}.")


def describe_type(info: FieldInfo, lang: str | None = None) -> str:
    """What a key takes, in words: ``a whole number from 1 to 1024 or null``."""
    return _describe(info.annotation, list(info.metadata), lang)


def _describe(annotation: Any, metadata: list[Any], lang: str | None) -> str:
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *extra = get_args(annotation)
        if annotation == PathText:
            return say("type.path", lang)
        return _describe(inner, metadata + extra, lang)
    if origin in (Union, types.UnionType):
        parts = [_describe(part, metadata, lang) for part in get_args(annotation) if part is not type(None)]
        text = say("type.or", lang).join(parts)
        return say("type.or_null", lang, kind=text) if type(None) in get_args(annotation) else text
    if origin is Literal:
        return _any_of([str(value) for value in get_args(annotation)], lang)
    if origin is list:
        return say("type.list", lang, item=_describe(get_args(annotation)[0], [], lang))
    if origin is dict:
        return say("type.map", lang, item=_describe(get_args(annotation)[1], [], lang))
    if annotation is bool:
        return say("type.switch", lang)
    if annotation in (int, float):
        kind = say("type.whole" if annotation is int else "type.number", lang)
        return _range(kind, _bounds(metadata), lang)
    if annotation is str:
        return _text(metadata, lang)
    return say("type.section", lang)


def _any_of(values: list[str], lang: str | None) -> str:
    if len(values) == 1:
        return values[0]
    return say("type.comma", lang).join(values[:-1]) + say("type.or", lang) + values[-1]


def _bounds(metadata: list[Any]) -> Bounds:
    found: Bounds = {}
    for item in metadata:
        if isinstance(item, FieldInfo):
            found |= _bounds(item.metadata)
        for name in ("ge", "gt", "le", "lt", "pattern"):
            if (value := getattr(item, name, None)) is not None:
                found[name] = value
    return found


def _range(kind: str, bounds: Bounds, lang: str | None) -> str:
    low, high = bounds.get("ge", bounds.get("gt")), bounds.get("le", bounds.get("lt"))
    key = {
        (False, False, False, False): None,
        (True, False, True, False): "between",
        (True, False, False, False): "at_least",
        (False, False, True, False): "at_most",
        (False, True, False, False): "above",
        (False, True, True, False): "above_up_to",
        (True, False, False, True): "from_below",
        (False, False, False, True): "below",
        (False, True, False, True): "above_below",
    }["ge" in bounds, "gt" in bounds, "le" in bounds, "lt" in bounds]
    if key is None:
        return kind
    return say(f"type.{key}", lang, kind=kind, low=_number(low), high=_number(high))


def _number(value: Any) -> str:
    return "2^63" if value == 2**63 else str(value)


def _pattern_texts() -> dict[str, str]:
    """A pattern says nothing to a reader; these two have words."""
    words = {"background": "type.colour", "output_name": "type.file_name"}
    return {_pattern(RunConfig.model_fields[name]): key for name, key in words.items()}


def _pattern(info: FieldInfo) -> str:
    metadata = list(info.metadata)
    for part in get_args(info.annotation):
        if get_origin(part) is Annotated:
            metadata += get_args(part)[1:]
    return str(_bounds(metadata).get("pattern"))


def _text(metadata: list[Any], lang: str | None) -> str:
    if pattern := _bounds(metadata).get("pattern"):
        return say(_pattern_texts()[pattern], lang)
    path_marks = get_args(PathText)[1:]
    return say("type.path" if any(mark in metadata for mark in path_marks[:1]) else "type.text", lang)


def json_schema(lang: str | None = None) -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of a config file, described in ``lang``.

    ``lang`` None gives every description in all languages: the file that editors read serves everybody.
    """
    schema = RunConfig.model_json_schema()
    languages = (lang,) if lang else LANGUAGES
    _strip(schema)
    definitions = schema.get("$defs", {})

    def describe(model: type[BaseModel], node: dict[str, Any], prefix: str) -> None:
        for name, info in model.model_fields.items():
            key = f"{prefix}{name}"
            node["properties"][name]["description"] = "\n\n".join(say(f"key.{key}", one) for one in languages)
            if section := section_of(info.annotation):
                describe(section, definitions[section.__name__], f"{key}.")

    describe(RunConfig, schema, "")
    schema["properties"]["task_type"]["enum"] += list(TASK_ALIASES)
    title = " / ".join(say("reference.title", one) for one in languages)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title} | schema


def _strip(node: Any) -> None:
    """Takes out what only we read, and writes bounds in the schema's own words.

    Behind a validator of ours pydantic leaves its own names (``ge``), which editors do not know.
    """
    if isinstance(node, dict):
        if "type" in node or "$ref" in node or "anyOf" in node:
            for name in ("title", "harmless", "description"):
                node.pop(name, None)
            for ours, theirs in JSON_BOUNDS.items():
                if ours in node:
                    node[theirs] = node.pop(ours)
        for child in node.values():
            _strip(child)
    elif isinstance(node, list):
        for child in node:
            _strip(child)


def reference_markdown(lang: str | None = None) -> str:
    """The reference page: every key with what it takes, its default and its meaning."""
    lines = [f"# {say('reference.title', lang)}", ""]
    for key in ("intro", "harmless", "generated"):
        lines += [say(f"reference.{key}", lang), ""]
    rows = [(name, info) for name, info in RunConfig.model_fields.items() if not section_of(info.annotation)]
    for name, info in rows:
        if name in GROUPS:
            lines += _table_head(say(GROUPS[name], lang), lang)
        lines.append(_row(name, name, info, lang))
        if rows[-1][0] == name or rows[rows.index((name, info)) + 1][0] in GROUPS:
            lines.append("")
    for name, info in RunConfig.model_fields.items():
        if section := section_of(info.annotation):
            item = "[]" if get_origin(info.annotation) is list else ""
            heading = say("reference.group.section", lang, name=name)
            lines += _table_head(heading, lang, say(f"key.{name}", lang))
            children = section.model_fields.items()
            lines += [
                _row(f"{name}{item}.{child}", f"{name}.{child}", each, lang) for child, each in children
            ]
            lines.append("")
    return "\n".join(lines)


def _table_head(heading: str, lang: str | None, text: str = "") -> list[str]:
    columns = [say(f"reference.{name}", lang) for name in ("key", "takes", "default", "meaning")]
    head = [f"## {heading}", ""]
    if text:
        head += [text, ""]
    return [*head, "| " + " | ".join(columns) + " |", "| --- | --- | --- | --- |"]


def _row(shown: str, dotted: str, info: FieldInfo, lang: str | None) -> str:
    extra = info.json_schema_extra
    mark = " ⟳" if isinstance(extra, dict) and extra.get("harmless") else ""
    takes = describe_type(info, lang).replace("|", "\\|")
    meaning = say(f"key.{dotted}", lang).replace("|", "\\|")
    return f"| `{shown}`{mark} | {takes} | {_default(info, lang)} | {meaning} |"


def _default(info: FieldInfo, lang: str | None) -> str:
    if info.is_required():
        return say("reference.required", lang)
    value = info.get_default(call_default_factory=True)
    if value is None or value in ([], {}, ""):
        return say("reference.none", lang)
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value}`"
