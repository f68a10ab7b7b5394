"""JSON of what is too much to be one text: the same characters as ``json.dumps`` gives, piece by piece."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any


def json_pieces(
    value: Mapping[str, Any],
    *,
    indent: int | None = None,
    separators: tuple[str, str] = (", ", ": "),
    level: int = 0,
) -> Iterator[str]:
    """``json.dumps(value, sort_keys=True, ensure_ascii=False, ...)`` in pieces, one for each entry.

    Values that are mappings without being dictionaries are written in pieces as well, in their own order, so
    that nobody has to hold all their entries; ``level`` is for them.
    """
    encoder = json.JSONEncoder(
        ensure_ascii=False, sort_keys=True, indent=indent, separators=separators if indent is None else None
    )
    line = "" if indent is None else "\n" + " " * indent * (level + 1)
    between = (separators[0] if indent is None else ",") + line
    colon = separators[1] if indent is None else ": "
    items = sorted(value.items()) if isinstance(value, dict) else value.items()
    before = "{" + line
    for key, each in items:
        start = f"{before}{encoder.encode(key)}{colon}"
        before = between
        if isinstance(each, Mapping) and not isinstance(each, dict):
            yield start
            yield from json_pieces(each, indent=indent, separators=separators, level=level + 1)
        else:
            text = encoder.encode(each)
            yield start + (text if indent is None else text.replace("\n", line))
    yield "{}" if before[0] == "{" else line[: len(line) - (indent or 0)] + "}"
