"""One row of any known form as a ``TextExample``, or what is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from ..core.catalogue import say
from ..core.problems import Location
from .chat import TextExample, Turn
from .row_faults import RowFault
from .text_columns import LABELS, Layout
from .text_turns import check_order, from_json, is_empty_answer, is_sharegpt, kind_of, tools_of, turns_of

FORMS = (
    "messages", "sharegpt", "alpaca", "prompt_completion", "question_answer", "text", "preference",
)  # fmt: skip
_PLACEHOLDER = re.compile(r"\{\{\s*(?:[A-Za-z_]\w{1,30}|[\u4e00-\u9fff]{1,12})\s*\}\}")


def form_title(form: str) -> str:
    """A form by name, in the user's language."""
    return say(f"texts.form.{form}")


def form_of(row: Mapping[str, Any], layout: Layout) -> str:
    """One of ``FORMS``."""
    if layout.form != "messages":
        return layout.form
    turns = from_json(row.get(layout.columns.get("messages", "")))
    return "sharegpt" if isinstance(turns, list | tuple) and turns and is_sharegpt(turns[0]) else "messages"


def convert(
    row: Mapping[str, Any], layout: Layout, where: Location, *, weight: float = 1.0, system: str | None = None
) -> TextExample:
    """``system``: said to the assistant where a conversation has no system turn of its own.

    Raises RowFault for anything that cannot be learnt from.
    """
    if layout.form != "preference" and any(isinstance(row.get(label), bool) for label in LABELS):
        raise RowFault("LS2113", key=next(label for label in LABELS if isinstance(row.get(label), bool)))
    reader = _Row(row, layout.columns)
    if layout.form == "text":
        example = TextExample(text=reader.text("text"), where=where, weight=weight)
    elif layout.form == "preference":
        example = _pair(reader, layout, where, weight)
    else:
        example = _conversation(reader, layout.form, where, weight)
    _check_characters(example)
    if system and example.turns and not example.plain and example.turns[0].role != "system":
        return replace(example, turns=(Turn("system", system), *example.turns))
    return example


class _Row:
    """A row by roles instead of its own column names."""

    def __init__(self, row: Mapping[str, Any], columns: Mapping[str, str]) -> None:
        self.row = row
        self.columns = columns

    def get(self, role: str) -> Any:
        # A table may have a column without a name: no role falls back on it.
        return self.row.get(self.columns[role]) if role in self.columns else None

    def name(self, role: str) -> str:
        return self.columns.get(role, role)

    def text(self, role: str) -> str:
        """A text that must be there. LS2130, LS2140; LS2131 where an answer is empty, LS2132 another."""
        value = self.get(role)
        if value is None:
            raise RowFault("LS2130", field=self.name(role))
        if not isinstance(value, str):
            raise RowFault("LS2140", field=self.name(role), kind=kind_of(value), wanted="string")
        if role == "completion" and is_empty_answer(value):
            raise RowFault("LS2131", field=self.name(role))
        if not value.strip():
            raise RowFault("LS2132", field=self.name(role))
        return value

    def optional(self, role: str) -> str:
        value = self.get(role)
        if value is not None and not isinstance(value, str):
            raise RowFault("LS2140", field=self.name(role), kind=kind_of(value), wanted="string")
        return value or ""

    def tools(self) -> tuple[Mapping[str, Any], ...]:
        return tools_of(self.get("tools"), self.name("tools"))

    def prompt(self) -> tuple[Turn, ...]:
        """What comes before the answer, the system's word first."""
        if "messages" in self.columns:
            turns = turns_of(self.get("messages"), self.name("messages"))
        elif isinstance(self.get("prompt"), list | tuple):
            turns = turns_of(self.get("prompt"), self.name("prompt"))
        else:
            turns = (*self._history(), Turn("user", self._question()))
        system = self.optional("system")
        return (Turn("system", system), *turns) if system.strip() and turns[0].role != "system" else turns

    def _question(self) -> str:
        """The instruction and, on lines of its own, its input; one of the two may be empty."""
        extra = self.optional("input")
        asked = self.optional("prompt") if extra.strip() else self.text("prompt")
        return "\n".join(part for part in (asked, extra) if part.strip())

    def _history(self) -> tuple[Turn, ...]:
        value = from_json(self.get("history"))
        if value is None or value == "":
            return ()
        if not isinstance(value, list | tuple):
            raise RowFault("LS2152", field=self.name("history"))
        turns: list[Turn] = []
        for pair in value:
            whole = isinstance(pair, list | tuple) and len(pair) == 2
            if not whole or not all(isinstance(text, str) and text.strip() for text in pair):
                raise RowFault("LS2152", field=self.name("history"))
            turns += [Turn("user", pair[0]), Turn("assistant", pair[1])]
        return tuple(turns)


def _conversation(row: _Row, form: str, where: Location, weight: float) -> TextExample:
    plain = False
    if form == "messages":
        turns = row.prompt()
    elif isinstance(row.get("prompt"), list | tuple):
        # Of a prompt that is a conversation itself, the completion alone is to be learnt.
        before = tuple(replace(turn, train=False) for turn in row.prompt())
        turns = (*before, *_answer(row, "completion"))
    else:
        turns = (*row.prompt(), Turn("assistant", row.text("completion")))
        plain = form == "prompt_completion" and len(turns) == 2
    check_order(turns)
    if not any(turn.train for turn in turns if turn.role == "assistant"):
        raise RowFault("LS2151")
    return TextExample(turns=turns, tools=row.tools(), plain=plain, where=where, weight=weight)


def _pair(row: _Row, layout: Layout, where: Location, weight: float) -> TextExample:
    answers = [_answer(row, role) for role in ("chosen", "rejected")]
    if answers[0] == answers[1]:
        raise RowFault("LS2147")
    plain = False
    if all(answer[0].role != "assistant" for answer in answers):
        shared = _shared(*answers)
        prompt, answers = answers[0][:shared], [answer[shared:] for answer in answers]
        if (
            not answers[0]
            or not answers[1]
            or prompt[-1:] == ()
            or prompt[-1].role in ("system", "assistant")
        ):
            raise RowFault("LS2149")
    else:
        prompt = row.prompt()
        texts = all(isinstance(row.get(role), str) for role in ("prompt", "chosen", "rejected"))
        plain = texts and layout.asked_by == "prompt" and len(prompt) == 1
    for answer in answers:
        check_order((*prompt, *answer))
    chosen, rejected = answers
    return TextExample(
        turns=prompt,
        chosen=chosen,
        rejected=rejected,
        tools=row.tools(),
        plain=plain,
        where=where,
        weight=weight,
    )


def _answer(row: _Row, role: str) -> tuple[Turn, ...]:
    value = row.get(role)
    if value is None:
        raise RowFault("LS2130", field=row.name(role))
    nested = from_json(value)
    if isinstance(nested, list) and nested and isinstance(nested[0], Mapping):
        value = nested
    if isinstance(value, str):
        if is_empty_answer(value):
            raise RowFault("LS2131", field=row.name(role))
        return (Turn("assistant", value),)
    return turns_of(value, row.name(role))


def _shared(one: tuple[Turn, ...], other: tuple[Turn, ...]) -> int:
    """How many turns two conversations begin with alike."""
    count = 0
    for mine, theirs in zip(one, other, strict=False):
        if mine != theirs:
            break
        count += 1
    return count


def texts_of(example: TextExample) -> Iterator[str]:
    """Every text of an example that reaches the tokenizer, those inside tools and their calls too."""
    nested: list[Any] = [example.text, *example.tools]
    for turn in (*example.turns, *example.chosen, *example.rejected):
        nested += [turn.content, turn.reasoning, *turn.tool_calls]
    while nested:
        value = nested.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):
            nested += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple):
            nested += value


def _check_characters(example: TextExample) -> None:
    for text in texts_of(example):
        if "\0" in text:
            raise RowFault("LS2142")
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                shown = f"\\u{ord(text[error.start]):04x}"
                raise RowFault("LS2141", character=shown) from error


def placeholders(example: TextExample) -> list[str]:
    """``{{name}}`` and the like: blanks that were meant to be filled in before training."""
    texts = [t.content for t in (*example.turns, *example.chosen, *example.rejected)]
    texts += [example.text] if example.text else []
    return [found for text in texts if "{{" in text for found in _PLACEHOLDER.findall(text)]
