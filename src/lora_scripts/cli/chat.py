"""``lora-scripts chat``: talk to a language model and its LoRAs in the terminal, or ask it from a script."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lora_scripts.core.catalogue import render, say
from lora_scripts.core.problems import Problem, ProblemsError
from lora_scripts.core.seeds import derive_seed

if TYPE_CHECKING:
    from lora_scripts.toolbox.text_loras import Voices

LEFT_AT_ONCE = 130
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""What could move a terminal's cursor or change its colours: models write what they have read."""


def chat(
    base: Annotated[str | None, typer.Option("--base", help=say("chat.base"))] = None,
    lora: Annotated[list[str] | None, typer.Option("--lora", help=say("chat.lora"))] = None,
    ask: Annotated[list[str] | None, typer.Option("--ask", help=say("chat.ask"))] = None,
    system: Annotated[str | None, typer.Option("--system", help=say("chat.system"))] = None,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", min=1, help=say("chat.max_new_tokens"))
    ] = 512,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0, max=2, help=say("chat.temperature"))
    ] = 0.0,
    thinking: Annotated[
        bool | None, typer.Option("--thinking/--no-thinking", help=say("chat.thinking"))
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1, help=say("chat.seed"))] = 42,
) -> None:
    from rich.console import Console

    from lora_scripts.toolbox.text_loras import open_voices

    aside = Console(stderr=True)
    with aside.status(say("phase.base")):
        voices = open_voices(base, lora or ())
    settings = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
    way = Way(voices, system, thinking)
    if ask:
        _answer_all(way, [_sound(question) for question in ask], settings)
    else:
        Talk(way, aside, settings).run()


@dataclass
class Way:
    """How is asked: as the user said, else as the speaking adapter was trained."""

    voices: Voices
    asked_system: str | None
    asked_thinking: bool | None

    @property
    def system(self) -> str | None:
        return (self.voices.system if self.asked_system is None else self.asked_system) or None

    def given(self) -> dict[str, Any]:
        thinking = self.voices.thinking if self.asked_thinking is None else self.asked_thinking
        return {"system": self.system, "template": self.voices.template, "thinking": thinking}


def _answer_all(way: Way, questions: list[str], settings: dict[str, Any]) -> None:
    """Each answer alone; with several questions, each under its own."""
    from lora_scripts.toolbox.talk import generate_texts

    answers = generate_texts(way.voices.model, questions, **way.given(), **settings)
    for question, answer in zip(questions, answers, strict=True):
        if len(questions) > 1:
            typer.echo(f"> {question}")
        typer.echo(_visible(answer))


def _visible(text: str) -> str:
    return CONTROL.sub("", text)


def _sound(text: str) -> str:
    """Text without halves of characters, which a terminal in another encoding can leave behind."""
    return text.encode("utf-8", "replace").decode("utf-8")


class Talk:
    """A conversation in the terminal. What is not the model's word goes to stderr, so that a pipe carries
    answers alone."""

    def __init__(self, way: Way, aside: Any, settings: dict[str, Any]) -> None:
        from lora_scripts.toolbox.conversation import Conversation
        from lora_scripts.toolbox.talk import stream_text

        self.stream = stream_text
        self.way = way
        self.voices = way.voices
        self.aside = aside
        self.settings = settings
        self.conversation = Conversation()
        self.answers = 0
        self.commands: dict[str, Callable[[str], None]] = {
            "lora": self.lora,
            "base": self.base,
            "loras": self.loras,
            "system": self.set_system,
            "reset": self.reset,
            "save": self.save,
            "help": lambda rest: self.tell(say("chat.help").strip()),
        }

    def run(self) -> None:
        """Until /quit, the end of the input, or Ctrl-C at the prompt."""
        self.greet()
        while (line := self.read()) is not None:
            name, _, rest = line[1:].partition(" ")
            try:
                if not line.startswith("/"):
                    self.answer(line.strip())
                elif name in ("quit", "exit", "bye"):
                    return
                elif name in self.commands:
                    self.commands[name](rest.strip())
                else:
                    raise ProblemsError(Problem("LS4356", {"name": f"/{name}"}))
            except ProblemsError as error:
                for problem in error.problems:
                    print(render(problem), file=sys.stderr)

    def greet(self) -> None:
        from lora_scripts.toolbox.turns import is_chat

        source = self.voices.model.description.source
        self.tell(say("chat.greeting", base=source.name))
        if not is_chat(self.voices.model.tokenizer, self.voices.template):
            self.tell(say("chat.plain"))
        self.tell_speaker()

    def read(self) -> str | None:
        """The next line; None at the end of the input."""
        if sys.stdin.isatty():
            with suppress(ImportError):
                import readline  # noqa: F401 - input() edits lines and remembers them with it
            try:
                return _sound(input("\n> "))
            except EOFError:
                return None
        line = sys.stdin.readline()
        return _sound(line.rstrip("\r\n")) if line else None

    def answer(self, question: str) -> None:
        """Asks and prints the answer as it comes. Ctrl-C stops it from the moment of asking, a second one
        leaves."""
        if not question:
            return
        self.answers += 1
        settings = self.settings | {"seed": derive_seed(self.settings["seed"], "answer", self.answers)}
        said, whole, stream = "", True, None
        try:
            stream = self.stream(
                self.voices.model,
                self.conversation.turns(question),
                **self.way.given(),
                **settings,
            )
            for piece in stream:
                shown = piece if said else piece.lstrip()
                said += shown
                print(_visible(shown), end="", flush=True)
        except KeyboardInterrupt:
            whole = False
        finally:
            if stream is not None:
                _stop(stream)
        print(flush=True)
        if not whole:
            self.tell(say("chat.stopped"))
        elif not said.strip():
            self.tell(say("chat.silent"))
        self.conversation.add(question, said.strip(), whole=whole)

    def tell(self, text: str) -> None:
        self.aside.print(text, style="dim", highlight=False, markup=False, soft_wrap=True)

    def tell_speaker(self) -> None:
        who = [name if s == 1 else f"{name}:{s:g}" for name, s in self.voices.active.items()]
        self.tell(say("chat.speaks", who=" + ".join(who) or say("chat.bare")))
        if self.way.system:
            self.tell(say("chat.system.now", text=_visible(self.way.system)))

    def lora(self, rest: str) -> None:
        words = _words(rest)
        if words:
            self.voices.speak(words)
        self.tell_speaker()

    def base(self, rest: str) -> None:
        self.voices.speak([])
        self.tell_speaker()

    def loras(self, rest: str) -> None:
        for name, voice in self.voices.known.items():
            mark = "*" if name in self.voices.active else " "
            self.tell(say("chat.loras", mark=mark, name=name, path=voice.path))
        if not self.voices.known:
            self.tell(say("chat.no_loras"))

    def set_system(self, rest: str) -> None:
        self.way.asked_system = rest
        self.tell(say("chat.system.now", text=rest) if rest else say("chat.system.none"))

    def reset(self, rest: str) -> None:
        self.conversation.reset()
        self.tell(say("chat.fresh"))

    def save(self, rest: str) -> None:
        path = Path(" ".join(_words(rest))).expanduser()
        saved = self.conversation.save(path, self.way.system)
        self.tell(say("chat.saved", path=path) if saved else say("chat.nothing"))


def _stop(stream: Any) -> None:
    try:
        stream.stop()
    except KeyboardInterrupt:  # the model is deep in a token: whoever asks twice does not want to wait for it
        sys.stdout.flush()
        os._exit(LEFT_AT_ONCE)


def _words(text: str) -> list[str]:
    """Words as a shell splits them, but a backslash is a letter: Windows' paths are full of them."""
    lexer = shlex.shlex(text, posix=True)
    lexer.whitespace_split = True
    lexer.escape = ""
    lexer.commenters = ""
    try:
        return list(lexer)
    except ValueError:  # a quotation mark without its partner
        return text.split()
