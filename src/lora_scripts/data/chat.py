"""What is learnt from one row of a text data set: a conversation, a plain text, or a pair of answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..core.problems import Location

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True)
class Turn:
    """One message of a conversation.

    ``train``: whether an assistant's turn carries loss. ``reasoning``: what the assistant thought before it
    answered. ``tool_calls``: the calls of an assistant's turn as chat templates expect them, ``{"type":
    "function", "function": {"name": ..., "arguments": {...}}}``; its ``content`` may then be empty.
    """

    role: Role
    content: str
    train: bool = True
    reasoning: str | None = None
    tool_calls: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, kw_only=True)
class TextExample:
    """One row. Of three kinds:

    * a conversation: ``turns``, the last one the assistant's. With ``plain``, prompt and completion came as
      bare texts in two turns, user and assistant, and a base without a chat template joins them as they are;
    * a plain text: ``text``, and no turns;
    * a preference pair: ``turns`` is the prompt that both share, ``chosen`` and ``rejected`` what follows.

    ``tools``: what the assistant may call, as JSON schemas, ``{"type": "function", "function": {...}}``.
    ``weight``: how often the row counts per epoch. ``where``: file and physical line (row number in a
    Parquet file).
    """

    turns: tuple[Turn, ...] = ()
    text: str | None = None
    chosen: tuple[Turn, ...] = ()
    rejected: tuple[Turn, ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()
    plain: bool = False
    where: Location
    weight: float = 1.0

    @property
    def is_pair(self) -> bool:
        return bool(self.chosen)
