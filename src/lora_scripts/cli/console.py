"""How the command line speaks: encodings, problems, usage errors, and where a crash is kept."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lora_scripts import __version__
from lora_scripts.core.catalogue import render, say
from lora_scripts.core.problems import Problem, errors
from lora_scripts.core.secrets import without_secrets


def print_problems(problems: Iterable[Problem]) -> None:
    """Every problem with its remedy on stderr, then how many errors there are and how to read more."""
    found = list(problems)
    for problem in found:
        print(without_secrets(render(problem)), file=sys.stderr)
    wrong = errors(found)
    if wrong:
        print(say("cli.problems", count=len(wrong), code=wrong[0].code), file=sys.stderr)


def print_usage_error(error: Any) -> None:
    """A command line that cannot be understood, in the user's language, with where to look."""
    context = getattr(error, "ctx", None)
    kind = type(error).__name__
    if kind == "NoArgsIsHelpError" and context is not None:
        print(context.get_help(), file=sys.stderr)
        return
    print(_usage_sentence(error, kind, context), file=sys.stderr)
    command = context.command_path if context else "lora-scripts"
    print("    → " + say("cli.usage.help", command=command), file=sys.stderr)


def _usage_sentence(error: Any, kind: str, context: Any) -> str:
    from lora_scripts.core.lookup import did_you_mean

    from .main import COMMANDS

    near = None
    if kind == "UnknownCommand":
        near = did_you_mean(error.message, COMMANDS)
        sentence = say("cli.usage.command", name=error.message)
    elif kind == "NoSuchOption":
        known = [option for parameter in context.command.params for option in parameter.opts]
        near = did_you_mean(error.option_name, known)
        sentence = say("cli.usage.option", name=error.option_name)
    elif kind == "MissingParameter" and error.param is not None:
        sentence = say("cli.usage.missing", name=_name(error.param))
    elif kind == "BadParameter" and error.param is not None:
        sentence = say("cli.usage.value", name=_name(error.param), detail=error.message)
    else:
        sentence = say("cli.usage.other", detail=error.format_message())
    return sentence + (say("cli.usage.near", near=near) if near else "")


def _name(parameter: Any) -> str:
    """How the user writes a parameter: an option as it is typed, an argument by its placeholder."""
    written = str(parameter.opts[0])
    return written if written.startswith("-") else str(parameter.metavar or parameter.name.upper())


def save_crash(error: BaseException) -> Path:
    """Writes the traceback of a bug of ours to a file of its own and returns where.

    The environment and the values of variables stay out: tokens may be among them.
    """
    text = "\n".join(
        (
            f"lora-scripts {__version__}, Python {platform.python_version()}, {platform.platform()}",
            f"arguments: {sys.argv[1:]}",
            "".join(traceback.format_exception(error)),
        )
    )
    name = time.strftime(f"crash-%Y%m%d-%H%M%S-{os.getpid()}.txt")
    for folder in _crash_folders():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(without_secrets(text), encoding="utf-8")
        except OSError:
            continue
        return folder / name
    return Path(os.devnull)


def _crash_folders() -> tuple[Path, Path]:
    from platformdirs import user_log_path

    return user_log_path("lora-scripts", appauthor=False), Path(tempfile.gettempdir())


def crash_files() -> list[Path]:
    """What ``save_crash`` left on this computer for this user."""
    return [path for folder in _crash_folders() for path in folder.glob("crash-*-*.txt")]
