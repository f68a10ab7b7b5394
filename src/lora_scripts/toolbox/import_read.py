"""Settings of other trainers as plain values: sd-scripts' TOML files and command lines, kohya_ss' JSON."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lora_scripts.core.problems import Location, Problem, ProblemsError

LARGEST = 4_000_000
"""Bytes; settings are never larger."""
KNOWN = frozenset(
    ("pretrained_model_name_or_path", "train_data_dir", "output_dir", "network_dim", "network_module",
     "learning_rate", "optimizer_type", "optimizer", "max_train_steps", "max_train_epochs", "dataset_config")
)  # fmt: skip
"""One of these is in every file of training settings."""
SUBSET = ("general", "datasets")


@dataclass
class Settings:
    """``values``: name -> value as the file has it. ``general``: what counts for all data sets, which are
    tables as sd-scripts' dataset TOML has them, with ``subsets`` inside. ``gui``: written by kohya_ss, where
    0 and "" stand for what is not used."""

    values: dict[str, Any] = field(default_factory=dict)
    general: dict[str, Any] = field(default_factory=dict)
    datasets: list[dict[str, Any]] = field(default_factory=list)
    gui: bool = False

    def join(self, other: Settings) -> None:
        self.values |= other.values
        self.general |= other.general
        self.datasets += other.datasets
        self.gui = self.gui or other.gui


def _stop(code: str, path: Path, line: int | None = None, column: int | None = None, **params: Any) -> Any:
    place = Location(str(path), line, column)
    return ProblemsError(Problem(code, {"path": str(path), **params}, place))


def read_settings(path: Path) -> Settings:
    """Reads one file, and the dataset file that it names.

    Raises ProblemsError: LS4457 no such file, LS4458 settings of no known kind, LS4459 not to be read.
    """
    if not path.is_file():
        raise _stop("LS4457", path)
    if path.stat().st_size > LARGEST:
        raise _stop("LS4458", path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _stop("LS4459", path, what="UTF-8") from error
    found = _parse(path, text)
    named = found.values.get("dataset_config")
    if isinstance(named, str) and named:
        beside = next(
            (p for p in (Path(named).expanduser(), path.parent / Path(named).name) if p.is_file()), None
        )
        if beside is None:
            raise _stop("LS4457", Path(named))
        found.values.pop("dataset_config")
        found.join(_parse(beside, beside.read_text("utf-8-sig")))
    return found


def _parse(path: Path, text: str) -> Settings:
    if text.lstrip().startswith("{"):
        return _json(path, text)
    if path.suffix.lower() in (".sh", ".bat", ".ps1", ".txt", ".cmd") or "--pretrained_model" in text:
        return _command(path, text)
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        place = re.search(r"at line (\d+), column (\d+)", str(error))
        numbers = (int(place[1]), int(place[2])) if place else (None, None)
        raise _stop("LS4459", path, *numbers, what="TOML") from error
    datasets = table.get("datasets")
    if isinstance(datasets, list) and all(isinstance(each, dict) for each in datasets):
        general = table.get("general")
        return Settings(general=general if isinstance(general, dict) else {}, datasets=datasets)
    values = _flat(table)
    if not KNOWN & values.keys():
        raise _stop("LS4458", path)
    return Settings(values)


def _flat(table: Mapping[str, Any]) -> dict[str, Any]:
    """Sections carry no meaning in sd-scripts' training files."""
    found: dict[str, Any] = {}
    for name, value in table.items():
        found |= _flat(value) if isinstance(value, dict) else {name: value}
    return found


def _json(path: Path, text: str) -> Settings:
    try:
        table = json.loads(text)
    except ValueError as error:
        line, column = getattr(error, "lineno", None), getattr(error, "colno", None)
        raise _stop("LS4459", path, line, column, what="JSON") from error
    if not isinstance(table, dict) or not KNOWN & table.keys():
        raise _stop("LS4458", path)
    more = table.pop("additional_parameters", "")
    found = Settings(table, gui=True)
    if isinstance(more, str) and more.strip():
        found.values |= _words(more)
    return found


def _command(path: Path, text: str) -> Settings:
    """The ``--name value`` pairs of a script, whatever program it calls."""
    joined = re.sub(r"[\\^`]\s*\r?\n", " ", text)
    lines = [line for line in joined.splitlines() if not re.match(r"\s*(#|::|rem\b)", line, re.I)]
    values = _words("\n".join(lines))
    if not KNOWN & values.keys():
        raise _stop("LS4458", path)
    for program, kind in (("sdxl_train", "sdxl"), ("flux_train", "flux"), ("sd3_train", "sd3")):
        if program in joined:
            values[kind] = True
    return Settings(values)


def _words(text: str) -> dict[str, Any]:
    """Names without a value are switches; several values of one name make a list."""
    if "\\" in text:  # of a Windows path, whose backslashes are no escapes
        words = [_bare(word) for word in re.findall(r"""(?:[^\s"']|"[^"]*"|'[^']*')+""", text)]
    else:
        try:
            words = shlex.split(text)
        except ValueError:
            words = text.split()
    found: dict[str, Any] = {}
    name = ""
    for word in words:
        if word.startswith("--") and len(word) > 2:
            name, equals, value = word[2:].partition("=")
            found[name] = value if equals else True
        elif name:
            before = found[name]
            if before is True:
                found[name] = word
            else:
                found[name] = [*before, word] if isinstance(before, list) else [before, word]
    return found


def _bare(word: str) -> str:
    """A word of a command line without its quotes."""
    return re.sub(r"""(["'])(.*?)\1""", r"\2", word)
