"""From a conversation to the texts that are learnt, with the places (in characters) that carry loss.

Each answer is looked at as it is when it is given: the conversation before it, rendered as a prompt. Where
the whole conversation begins with that prompt for every answer, it is one text. Where the template rewrites
earlier turns (drops their reasoning, moves the system prompt), or ends no turn but the last, every answer
becomes a text of its own: the only way to learn from what inference will show.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lora_scripts.core.problems import Location, Problem, ProblemsError
from lora_scripts.data.chat import TextExample, Turn

from ._chat import EMPTY_THINK, Chat, Tools, advice, thinks
from ._special_tokens import Specials

EMPTY_THINK_AT_END = re.compile(EMPTY_THINK.pattern + r"\Z")
OPEN_THINK_AT_END = re.compile(r"<think>\s*\Z")

Span = tuple[int, int]


@dataclass(frozen=True)
class Piece:
    """One text to be learnt. ``spans``: what carries loss, as [start, end) in characters. ``bos``: what the
    tokenizer puts in front of texts belongs to it; ``eos``: the end token is appended, with loss;
    ``document``: it is no conversation."""

    text: str
    spans: tuple[Span, ...]
    bos: bool = False
    eos: bool = False
    document: bool = False


@dataclass(frozen=True)
class _Answer:
    """``text`` up to the end of an answer that carries loss in ``spans``; ``closed``: by an end token."""

    text: str
    spans: tuple[Span, ...]
    closed: bool


class Rows:
    """Texts of examples under one chat template. ``everything``: all of a text carries loss."""

    def __init__(self, chat: Chat, *, everything: bool = False, system: str | None = None) -> None:
        self.chat = chat
        self.everything = everything
        self.system = system
        self.specials = Specials(chat.tokenizer)

    def pieces(self, example: TextExample, *, apart: bool = False) -> list[Piece]:
        """The texts of a conversation or a plain text; none where nothing in it is to be learnt. ``apart``:
        one for each answer, whatever the template does.

        Raises ProblemsError LS2200 without a template, LS2203 to LS2206 for what it does to the row.
        """
        if example.text is not None:
            whole = ((0, len(example.text)),)
            return [Piece(example.text, whole, bos=True, eos=True, document=True)]
        if not self.chat:
            return [self._joined(example.turns, example)]
        return self._conversation(self.with_system(example.turns), example, apart=apart)

    def pair(self, example: TextExample) -> tuple[Piece, Piece]:
        """The chosen and the rejected answer, each behind their prompt, with loss on answers only."""
        found = []
        for answer in (example.chosen, example.rejected):
            turns = [replace(turn, train=False) for turn in example.turns] + list(answer)
            alone = replace(example, turns=tuple(turns), chosen=(), rejected=())
            if self.chat:
                pieces = Rows(self.chat)._conversation(self.with_system(alone.turns), alone)
            else:
                pieces = [self._joined(alone.turns, alone)]
            if not pieces:
                raise ProblemsError(Problem("LS2206", {}, example.where))
            found.append(pieces[-1])
        return found[0], found[1]

    def with_system(self, turns: Sequence[Turn]) -> tuple[Turn, ...]:
        """The turns behind the system prompt that rows without one get."""
        if self.system and not any(turn.role == "system" for turn in turns):
            return (Turn("system", self.system), *turns)
        return tuple(turns)

    def _joined(self, turns: Sequence[Turn], example: TextExample) -> Piece:
        """Prompt and answer as they are, where neither the base nor the row knows of a conversation."""
        if not example.plain:
            told = {"advice": advice(self.chat.tokenizer)}
            raise ProblemsError(Problem("LS2200", told, example.where))
        prompt, answer = "".join(turn.content for turn in turns[:-1]), turns[-1].content
        start = 0 if self.everything else len(prompt)
        return Piece(prompt + answer, ((start, len(prompt + answer)),), bos=True, eos=True)

    def _conversation(
        self, turns: Sequence[Turn], example: TextExample, *, apart: bool = False
    ) -> list[Piece]:
        asked = [k for k, turn in enumerate(turns) if turn.role == "assistant" and turn.train]
        if not asked:
            return []
        where, tools = example.where, example.tools
        if self.everything:
            text = self.chat.render(turns, tools, where=where)
            if self.chat.thinking == "drop":
                text = EMPTY_THINK.sub("", text)
            _calls_are_there(turns, text, where)
            if self._end(text, 0):
                return [Piece(text, ((0, len(text)),))]
            return [_open(text.rstrip(), ((0, len(text.rstrip())),))]
        answers = [self._answer(turns[: k + 1], tools, where) for k in asked]
        last = answers[-1]
        if not apart and all(answer.closed and last.text.startswith(answer.text) for answer in answers):
            return [Piece(last.text, tuple(span for answer in answers for span in answer.spans))]
        return [
            Piece(answer.text, answer.spans) if answer.closed else _open(answer.text, answer.spans)
            for answer in answers
        ]

    def _answer(self, turns: Sequence[Turn], tools: Tools, where: Location | None) -> _Answer:
        chat, thoughtful = self.chat, thinks(turns[-1])
        spelt: list[Span] = []
        if chat.marked:
            full, spelt = chat.render_marked(turns, tools, where=where)
        else:
            full = chat.render(turns, tools, where=where)
        _calls_are_there(turns, full, where)
        off = chat.thinking == "keep" and not thoughtful
        prompt = chat.render(turns[:-1], tools, prompt=True, thinking=not off, where=where)
        text, as_rendered = self._behind(prompt, full, turns[-1], where)
        start = len(prompt)
        end = self._end(text, start)
        closed = end is not None
        stop = len(text.rstrip()) if end is None else end
        if stop <= start:
            raise ProblemsError(Problem("LS2206", {}, where))
        spans = _clipped(spelt, start, stop) if as_rendered else ()
        return _Answer(text[:stop], spans or ((start, stop),), closed)

    def _behind(self, prompt: str, full: str, turn: Turn, where: Location | None) -> tuple[str, bool]:
        """``full`` as it reads when its answer was given behind ``prompt``, and whether that is ``full``
        itself. Raises ProblemsError LS2205 where the two have nothing to do with each other."""
        if full.startswith(prompt):
            rest = full[len(prompt) :]
            empty = EMPTY_THINK.match(rest)
            if self.chat.thinking == "drop" and empty and not thinks(turn):
                return prompt + rest[empty.end() :], False
            return full, True
        for pattern in (EMPTY_THINK_AT_END, OPEN_THINK_AT_END):
            found = pattern.search(prompt)
            if found and full.startswith(prompt[: found.start()]):
                rest = full[found.start() :]
                break
        else:
            base = prompt.rstrip()
            if not full.startswith(base):
                raise ProblemsError(Problem("LS2205", {"shown": prompt[-60:]}, where))
            return prompt + full[len(base) :].lstrip(), False
        if pattern is EMPTY_THINK_AT_END:
            return prompt + EMPTY_THINK.sub("", rest, count=1) if EMPTY_THINK.match(
                rest
            ) else prompt + rest, False
        if rest.lstrip().startswith("<think>"):
            return prompt + rest.lstrip().removeprefix("<think>").lstrip("\n"), False
        thought = (turn.reasoning or "").strip("\n")
        return f"{prompt}{thought}\n</think>\n\n{rest}" if thought else f"{prompt}</think>\n\n{rest}", False

    def _end(self, text: str, start: int) -> int | None:
        """Where the last special token behind ``start`` ends, if nothing but white space follows it."""
        last = self.specials.last(text, start)
        return last.end() if last and not text[last.end() :].strip() else None


def _open(text: str, spans: tuple[Span, ...]) -> Piece:
    return Piece(text, spans, eos=True)


def _clipped(marks: Sequence[Span], start: int, stop: int) -> tuple[Span, ...]:
    """The template's own marks within an answer, the last of them reaching over the end token."""
    inside = [(max(a, start), min(b, stop)) for a, b in marks if b > start and a < stop]
    return (*inside[:-1], (inside[-1][0], stop)) if inside else ()


def _calls_are_there(turns: Sequence[Turn], text: str, where: Location | None) -> None:
    """Raises ProblemsError LS2204 where the template leaves out a tool call."""
    for turn in turns:
        for call in turn.tool_calls:
            name = str(call.get("function", call).get("name", ""))
            if name not in text:
                raise ProblemsError(Problem("LS2204", {"name": name}, where))
