"""The command line: one file per command, imported when it is asked for.

A command ``name`` is the function of that name (``_`` for ``-``) in ``cli/<name>.py``; its one-line help is
the sentence ``cli.<name>`` of the catalogue. A command module imports typer and ``core`` only, and the heavy
rooms inside its function, so that ``--help`` stays light.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, MutableMapping, Sequence
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_command_from_info
from typer.models import CommandInfo

from lora_scripts import __version__
from lora_scripts.core.catalogue import LANGUAGES, exit_code, say, use_language
from lora_scripts.core.language import speak_unicode
from lora_scripts.core.problems import Problem, ProblemsError

from .console import print_problems, print_usage_error, save_crash
from .screen import be_patient, silence

COMMANDS = (
    "train",
    "check",
    "dataset",
    "label",
    "generate",
    "chat",
    "inspect",
    "merge",
    "export",
    "convert",
    "import-config",
    "families",
    "explain",
    "schema",
    "logs",
    "env",
    "bug-report",
)
OUR_BUG, INTERRUPTED = 1, 130


class UnknownCommand(typer.TyperException):
    """A word where a command is expected; the message is the word."""

    exit_code = 2


class _Commands(MutableMapping[str, Any]):
    """The commands by name; looking one up imports its file."""

    def __init__(self) -> None:
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._loaded:
            if name not in COMMANDS:
                raise KeyError(name)
            own = name.replace("-", "_")
            function = getattr(import_module(f"lora_scripts.cli.{own}"), own)
            info = CommandInfo(name, callback=function, help=say(f"cli.{name}"), no_args_is_help=False)
            self._loaded[name] = get_command_from_info(
                info, pretty_exceptions_short=True, rich_markup_mode="rich"
            )
        return self._loaded[name]

    def __setitem__(self, name: str, command: Any) -> None:
        self._loaded[name] = command

    def __delitem__(self, name: str) -> None:
        del self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __contains__(self, name: object) -> bool:
        return name in COMMANDS

    def __len__(self) -> int:
        return len(COMMANDS)


class _Group(TyperGroup):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = _Commands()

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        return self.commands[cmd_name]  # outside any ``get``: a KeyError in a command's file is a bug

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            raise UnknownCommand(args[0])
        return super().resolve_command(ctx, args)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lora-scripts {__version__}")
        raise typer.Exit


def _set_language(name: str | None) -> str | None:
    if name is not None:
        if name not in LANGUAGES:
            raise typer.BadParameter(say("cli.lang.known", known=", ".join(LANGUAGES)))
        use_language(name)
    return name


def build() -> typer.Typer:
    """The application, with its help in the language in use."""
    application = typer.Typer(
        name="lora-scripts",
        cls=_Group,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
    )
    choice = "|".join(LANGUAGES)
    lang = typer.Option(
        None, "--lang", metavar=choice, callback=_set_language, is_eager=True, help=say("cli.lang")
    )
    version = typer.Option(False, "--version", callback=_show_version, is_eager=True, help=say("cli.version"))

    @application.callback(help=say("cli.help"))
    def options(lang: str | None = lang, version: bool = version) -> None:
        """What can be asked before any command: both options act as soon as they are read."""

    return application


app = build()


def run(arguments: Sequence[str] | None = None) -> int:
    """Carries out one command line (default: the process's) and returns its exit code.

    What is wrong is said on stderr in the user's language; a traceback is only ever written to a file.
    """
    speak_unicode()
    be_patient()
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # hubs are not told what a library is used for
    given = _each_set(_language_first(list(sys.argv[1:] if arguments is None else arguments)))
    try:
        result = build()(args=given, prog_name="lora-scripts", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except ProblemsError as error:
        print_problems(error.problems)
        return exit_code(error.problems)
    except typer.TyperException as error:
        print_usage_error(error)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except UnicodeEncodeError as error:
        problem = _unwritable(error) or _bug(error)
        print_problems([problem])
        return exit_code([problem])
    except Exception as error:  # any bug of ours ends here: named, kept in a file, never a traceback
        print_problems([_bug(error)])
        return OUR_BUG
    finally:
        _flush_stdout()


def _bug(error: Exception) -> Problem:
    told = {"error": f"{type(error).__name__}: {error}", "path": str(save_crash(error))}
    return Problem("LS9001", told)


def _unwritable(error: UnicodeEncodeError) -> Problem | None:
    """A name that this system's encoding of file names lacks; None where that is not what went wrong."""
    from codecs import lookup

    encoding = sys.getfilesystemencoding()
    if lookup(error.encoding).name != lookup(encoding).name or lookup(encoding).name == "utf-8":
        return None
    return Problem("LS3030", {"name": error.object, "encoding": encoding})


def _language_first(arguments: list[str]) -> list[str]:
    """Moves ``--lang`` to the front: it works after a command as well, and help speaks it too."""
    head: list[str] = []
    rest = list(arguments)
    while (at := _position(rest)) is not None:
        length = 1 if "=" in rest[at] else 2
        head, rest = rest[at : at + length], rest[:at] + rest[at + length :]
    name = head[-1].partition("=")[2] if len(head) == 1 else head[1] if head else None
    if name in LANGUAGES:
        use_language(name)
    return head + rest


def _each_set(arguments: list[str]) -> list[str]:
    """``--set a=1 b=2`` is written ``--set a=1 --set b=2``: both forms are typed."""
    result: list[str] = []
    for word in arguments:
        if result[-2:-1] == ["--set"] and "=" in word and not word.startswith("-"):
            result.append("--set")
        result.append(word)
    return result


def _position(arguments: list[str]) -> int | None:
    for at, word in enumerate(arguments):
        if word == "--":
            return None
        if word == "--lang" or word.startswith("--lang="):
            return at
    return None


def _flush_stdout() -> None:
    """What is left where nobody reads or the disk is full is given up: what was done is done."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        silence(sys.stdout)
    except ValueError:  # closed
        pass


if __name__ == "__main__":
    sys.exit(run())
