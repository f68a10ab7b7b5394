"""What the tests of text checks share: rows in a file, and a check on a small tokenizer."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from lora_scripts.config.schema import RunConfig
from lora_scripts.core.problems import ProblemsError
from lora_scripts.preflight.checks.texts import TextReport, check_texts
from tests.texts.small import chat_tokenizer

ROWS = [{"prompt": f"Where is parcel {n}?", "completion": f"Parcel {n} is on its way."} for n in range(30)]


def write(path, rows) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def config_of(path, **options) -> RunConfig:
    given = {
        "task_type": "text-generation",
        "train_data_dir": str(path.parent),
        "metadata_path": str(path),
        "base_model": "base",
        "output_dir": str(path.parent / "out"),
        "cache_dir": str(path.parent / "cache"),
    }
    return RunConfig(**(given | options))


def check(path, *, tokenizer=None, context=256, vocabulary=100_000, progress=None, **options):
    family = SimpleNamespace(tokenizer=lambda source: tokenizer or chat_tokenizer())
    description = SimpleNamespace(context=context, vocabulary=vocabulary)
    return check_texts(config_of(path, **options), family, description, None, progress)  # type: ignore[arg-type]


def wrong(path, **options) -> list:
    with pytest.raises(ProblemsError) as error:
        check(path, **options)
    return error.value.problems


def codes(problems) -> list[str]:
    return [problem.code for problem in problems]


def answer_of(report: TextReport, number: int) -> str:
    row = report.table.row(number)
    return report.chat.tokenizer.decode(row.ids[row.targets])
