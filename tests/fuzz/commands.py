"""The real command lines on inputs of the other kinds: an exit code and sentences, and nothing else."""

from __future__ import annotations

import io
import json
import random
import re
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any

from lora_scripts.cli import main
from lora_scripts.core.catalogue import codes, use_language
from lora_scripts.core.problems import Problem

from . import configs, headers, pictures, rows
from .case import CHINESE, CONTROL, Case, WrongAnswerError

NAME = "commands"
CODES = {0, 2, 3, 4, 5}
"""What a command may end with: 1 is a bug of ours."""
ANSI = re.compile(r"\x1b\[[0-9;]*m")
SPELLING = re.compile(r"LS\d{4}")
TEXTS = (
    "task_type: text-generation\nmetadata_path: rows.jsonl\nbase_model: base\noutput_dir: out\n"
    "cache_dir: cache\n"
)
PICTURES = "train_data_dir: pics\nbase_model: builtin:demo\noutput_dir: out\n"


@cache
def _sound() -> dict[str, bytes]:
    """Three pictures and their captions."""
    made = {f"pics/{n}.png": pictures.originals()[1][2] + bytes(n) for n in range(3)}
    return made | {
        "pics/metadata.csv": b"file_name,text\n" + b"".join(b"%d.png,a cat\n" % n for n in range(3))
    }


@cache
def _language_model() -> dict[str, bytes]:
    """A small language model's folder."""
    import tempfile

    from tests.texts import small

    with tempfile.TemporaryDirectory() as place:
        folder = small.write_model(Path(place) / "base")
        return {f"base/{path.name}": path.read_bytes() for path in folder.iterdir() if path.is_file()}


def _edited(base: str, chance: random.Random) -> bytes:
    """A configuration that can be checked, with one odd line more."""
    lines = base.splitlines()
    for _, edit in chance.choices(configs.EDITS[:-1], k=chance.choice((0, 1, 1, 2))):
        if configs._keys(lines):
            lines = edit(lines, chance)[0]
    keys = (
        "lora_rank",
        "resolution",
        "target_modules",
        "max_steps",
        "components",
        "init_from",
        "loss_mask",
        "system",
    )
    values = (
        "999999",
        "[to_k]",
        "['(']",
        "{vae: none}",
        "m.safetensors",
        "8",
        "'x'",
        "null",
        "[8, 4096]",
        "~/x",
        "[]",
    )
    lines.append(f"{chance.choice(keys)}: {chance.choice(values)}")
    return ("\n".join(lines) + "\n").encode("utf-8", "replace")


def make(number: int, chance: random.Random) -> Case:
    command = ("check", "inspect", "dataset", "explain", "texts", "run")[number % 6]
    language = ("en", "zh")[number // 6 % 2]
    options: dict[str, Any] = {"language": language}
    if command == "explain":
        known = codes()
        code = chance.choice((*known, *known, *known, "LS0000", "rank", "", "\x1b[2J", "ls1001", "LS1", "字"))
        return Case({}, "", f"explain {code}", options=options | {"words": ["explain", code]})
    if command == "inspect":
        case = headers.make(number, chance)
        words = ["inspect", case.main, *chance.choice(([], ["--json"], ["--config"]))]
        return Case(
            case.files, case.main, f"inspect {case.told}", options=options | {"words": words}, size=case.size
        )
    if command == "dataset":
        inner = (pictures if chance.random() < 0.5 else rows).make(number, chance)
        files = {f"pics/{name}": data for name, data in inner.files.items()}
        words = ["dataset", "check", "pics", "--output", "seen", *chance.choice(([], ["--json"]))]
        return Case(
            _sound() | files,
            f"pics/{inner.main}",
            f"dataset {inner.told}",
            options=options | {"words": words},
        )
    words = ["check", "--config", "c.yaml"]
    if command == "texts":
        inner = rows._texts(chance)
        files = (
            {"c.yaml": TEXTS.replace("rows.jsonl", inner.main).encode()}
            | _language_model()
            | dict(inner.files)
        )
        return Case(files, inner.main, f"check {inner.told}", options=options | {"words": words})
    if command == "run":
        inner = (pictures if chance.random() < 0.5 else rows).make(number, chance)
        files = {f"pics/{name}": data for name, data in inner.files.items()}
        config = PICTURES + chance.choice(
            ("", "on_bad_image: skip\n", "strict: true\n", "validation: {split: 0}\n")
        )
        files = _sound() | files | {"c.yaml": config.encode()}
        return Case(files, f"pics/{inner.main}", f"check {inner.told}", options=options | {"words": words})
    (weights,) = headers.make(number, chance).files.values()
    files = _sound() | {"c.yaml": _edited(PICTURES, chance), "m.safetensors": weights}
    return Case(files, "c.yaml", "check of an odd configuration", options=options | {"words": words})


def run(case: Case, folder: Path) -> list[Problem]:
    from contextlib import chdir

    case.write(folder) if case.files else None
    words = ["--lang", case.options["language"], *case.options["words"]]
    out, err = io.StringIO(), io.StringIO()
    with chdir(folder), redirect_stdout(out), redirect_stderr(err):
        code = main.run(words)
    use_language("en")
    said, complained = ANSI.sub("", out.getvalue()), ANSI.sub("", err.getvalue())
    where = f"{' '.join(words)}: {code}, {complained[-400:]!r}"
    if code not in CODES:
        raise WrongAnswerError(f"exit code of {where}")
    if "Traceback" in said + complained:
        raise WrongAnswerError(f"a traceback of {where}")
    if CONTROL.search(said) or CONTROL.search(complained):
        raise WrongAnswerError(f"control characters of {where}")
    if code and not complained and not said:
        raise WrongAnswerError(f"no word of {where}")
    if code and "→" not in said + complained and not {"explain", "--json"} & set(words):
        raise WrongAnswerError(f"no remedy of {where}")
    if (
        case.options["language"] == "zh"
        and not CHINESE.search(said + complained)
        and not {"--json", "--config"} & set(words[3:4] + words[-1:])
    ):
        raise WrongAnswerError(f"no Chinese of {where}")
    if "--json" in words and code == 0:
        json.loads(said)
    return [Problem(code) for code in SPELLING.findall(complained)]
