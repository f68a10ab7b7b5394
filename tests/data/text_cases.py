"""What the tests of text data share: writing a small data set, reading it, and saying what was wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lora_scripts.core.catalogue import render
from lora_scripts.core.problems import Problem
from lora_scripts.data.chat import TextExample
from lora_scripts.data.text_sources import Texts, TextSource, open_texts

REAL = Path(__file__).parents[3] / "shared" / "data" / "text"


def dialogue(*contents: str) -> list[dict[str, str]]:
    """Messages of a user and an assistant in turn."""
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(contents)]


def write_jsonl(path: Path, rows: list[Any]) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_bytes("".join(line + "\n" for line in lines).encode("utf-8", "surrogatepass"))
    return path


def read(path: Path | str, **options: Any) -> tuple[list[TextExample], Texts]:
    columns = options.pop("columns", {})
    texts = open_texts([TextSource(str(path), columns=columns)], **options)
    return list(texts), texts


def row_example(tmp_path: Path, row: Any, **options: Any) -> TextExample:
    """The example of a file with this one row; what is wrong with it fails the test."""
    examples, texts = read(write_jsonl(tmp_path / "rows.jsonl", [row]), **options)
    assert texts.problems == [], "\n".join(render(p) for p in texts.problems)
    return examples[0]


def form(tmp_path: Path, row: Any, **options: Any) -> str:
    _, texts = read(write_jsonl(tmp_path / "rows.jsonl", [row]), **options)
    return next(iter(texts.forms.values()), "")


def roles(turns: Any) -> list[str]:
    return [turn.role for turn in turns]


def contents(turns: Any) -> list[str]:
    return [turn.content for turn in turns]


def codes(problems: list[Problem]) -> list[str]:
    return [problem.code for problem in problems]


def faults(tmp_path: Path, *rows: Any, **options: Any) -> list[tuple[str, int | None]]:
    """(code, line) of everything that is said about a file of these rows."""
    _, texts = read(write_jsonl(tmp_path / "rows.jsonl", list(rows)), **options)
    return [(p.code, p.where.line if p.where else None) for p in texts.problems]
