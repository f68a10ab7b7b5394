"""Files and folders that a configuration names: there, of the right kind, writable, with room."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from lora_scripts.config.schema import RunConfig
from lora_scripts.core.catalogue import say
from lora_scripts.core.lookup import did_you_mean
from lora_scripts.core.paths import cache_folder
from lora_scripts.core.problems import Problem
from lora_scripts.preflight.machine import Machine, existing_parent

TEMPLATE_ENDINGS = (".jinja", ".jinja2", ".j2", ".txt")
DATA_ENDINGS = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt")
WEIGHT_ENDINGS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf")
MAX_SIBLINGS = 5000
SMALL_RUN = 200 * 2**20
BYTES_PER_RANK = 40 * 2**20
"""Five checkpoints and exports of one rank of a Stable Diffusion LoRA, with the optimizer's state."""

REPEATS = {
    "LS2020": {"train_data_dir", "validation.data_dir"},
    "LS2022": {"metadata_path"},
    "LS4001": {"base_model"},
    "LS1032": {"chat_template"},
}
"""What those say who open a missing path later -> the keys for which it has been said here already."""


def without_repeats(problems: Sequence[Problem]) -> list[Problem]:
    """``problems`` less those that only repeat, from further down, that a path does not exist."""
    missing = [problem for problem in problems if problem.code.startswith("LS110")]
    keys = {problem.params.get("key") for problem in missing}
    paths = {problem.params.get("path") for problem in missing}
    return [
        problem
        for problem in problems
        if not keys & REPEATS.get(problem.code, set())
        and not (problem.code in ("LS2100", "LS2102") and problem.params["path"] in paths)
    ]


def check_paths(machine: Machine, config: RunConfig) -> list[Problem]:
    problems = _texts(config) if config.task_type == "text-generation" else _pictures(config)
    if looks_local(config.base_model):
        small = "builtin:demo-chat" if config.task_type == "text-generation" else "builtin:demo"
        problems += _exists("base_model", config.base_model, small)
    for name, text in config.components.items():
        if looks_local(text):
            problems += _exists(f"components.{name}", text)
    return problems + _output(machine, config) + _cache(machine, config)


def _pictures(config: RunConfig) -> list[Problem]:
    problems = _folder("train_data_dir", config.train_data_dir)
    for number, entry in enumerate(config.datasets):
        problems += _folder(f"datasets.{number}.path", entry.path)
        if entry.metadata_path is not None:
            problems += _file(f"datasets.{number}.metadata_path", entry.metadata_path)
    if config.loss_mask not in ("none", "alpha"):
        problems += _folder("loss_mask", config.loss_mask)
    if config.metadata_path is not None:
        problems += _file("metadata_path", config.metadata_path)
    if config.init_from is not None:
        problems += _file("init_from", config.init_from)
    if config.validation.data_dir is not None:
        problems += _folder("validation.data_dir", config.validation.data_dir)
    return problems


def _texts(config: RunConfig) -> list[Problem]:
    """Files, folders and hub ids alike; of ``train_data_dir`` only where nothing else says what to read."""
    given = {
        "metadata_path": config.metadata_path,
        "validation.data_dir": config.validation.data_dir,
        **{f"datasets.{number}.path": entry.path for number, entry in enumerate(config.datasets)},
    }
    if config.metadata_path is None and not config.datasets:
        given["train_data_dir"] = config.train_data_dir
    problems = []
    for key, text in given.items():
        if text is not None and looks_local(text):
            problems += _exists(key, text)
    if config.chat_template is not None and config.chat_template.endswith(TEMPLATE_ENDINGS):
        problems += _file("chat_template", config.chat_template)
    return problems


def looks_local(text: str) -> bool:
    """Whether a model's or data set's name is a path. A hub id is ``owner/name``; ``builtin:`` is neither."""
    if text.startswith(("builtin:", "modelscope:")):
        return False
    if text.startswith((".", "/", "~")) or "\\" in text or re.match(r"[A-Za-z]:", text):
        return True
    if text.lower().endswith(WEIGHT_ENDINGS + DATA_ENDINGS) or Path(text).exists():
        return True
    return text.count("/") != 1


def needed_disk(config: RunConfig) -> int:
    """Bytes that a run's folder will want at least: a floor, to refuse a disk that is as good as full."""
    if config.base_model.startswith("builtin:"):
        return SMALL_RUN
    return SMALL_RUN + BYTES_PER_RANK * config.lora_rank * (2 if config.train_text_encoder else 1)


def _exists(key: str, text: str, instead: str = "") -> list[Problem]:
    """``instead``: a base that is always there."""
    path = Path(text).expanduser()
    if path.exists():
        return []
    told = {"key": key, "path": text}
    if near := near_path(path):
        return [Problem("LS1102", told | {"suggestion": near})]
    return [Problem("LS1103", told | {"instead": instead}) if instead else Problem("LS1101", told)]


def _folder(key: str, text: str) -> list[Problem]:
    if Path(text).expanduser().is_file():
        return [Problem("LS1104", {"key": key, "path": text})]
    return _exists(key, text)


def _file(key: str, text: str) -> list[Problem]:
    if Path(text).expanduser().is_dir():
        return [Problem("LS1105", {"key": key, "path": text})]
    return _exists(key, text)


def near_path(path: Path) -> str | None:
    """``path`` with its first missing part replaced by the sibling nearest in name, if that leads on."""
    parent = existing_parent(path)
    absolute = Path(os.path.abspath(path))
    if parent == absolute:
        return None
    wrong, *rest = absolute.relative_to(parent).parts
    try:
        with os.scandir(parent) as entries:
            names = [entry.name for _, entry in zip(range(MAX_SIBLINGS), entries, strict=False)]
    except OSError:
        return None
    lowered = {name.lower(): name for name in names}
    near = did_you_mean(wrong, lowered)
    if near is None:
        return None
    found = parent.joinpath(lowered[near], *rest)
    if not found.exists():
        return None
    return found.as_posix() if path.is_absolute() else _relative(found)


def _relative(path: Path) -> str:
    text = Path(os.path.relpath(path)).as_posix()
    return text if text.startswith("..") else f"./{text}"


def _output(machine: Machine, config: RunConfig) -> list[Problem]:
    path = Path(config.output_dir).expanduser()
    told = {"path": config.output_dir}
    if not existing_parent(path).is_dir():
        return [Problem("LS1106", {"path": str(existing_parent(path))})]
    if path.resolve() == Path(config.train_data_dir).expanduser().resolve():
        return [Problem("LS1107", told)]
    if not machine.writable(path):
        return [Problem("LS3014", told | {"folder": str(existing_parent(path))})]
    needed, free = needed_disk(config), machine.free_disk(path)
    if free < needed:
        return [Problem("LS3015", told | {"needed": _mib(needed), "free": _mib(free)})]
    return []


def _cache(machine: Machine, config: RunConfig) -> list[Problem]:
    """A cache that cannot be written to is of use only where it holds everything: that is known later."""
    folder = cache_folder(config.cache_dir)
    if machine.writable(folder):
        return []
    told = {"path": str(folder), "reason": say("paths.read_only")}
    return [Problem("LS3952", told, severity="warning" if folder.is_dir() else "error")]


def _mib(size: int) -> int:
    return size // 2**20
