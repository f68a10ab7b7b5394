"""As much of Go's template language as a chat needs, so that what is written for Ollama can be tried here.

Known: ``{{ range .Messages }}``, ``{{ if }}``, ``{{ else if }}``, ``{{ else }}``, ``{{ end }}``, ``.Role``,
``.Content``, string literals, ``eq``, ``ne``, ``or`` of comparisons, ``(index .Messages 0).Role``, and the
trim marks ``{{-`` and ``-}}``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

Turn = Mapping[str, str]
ACTION = re.compile(
    r"(?P<before>\s*)\{\{(?P<left>- )?\s*(?P<body>.*?)\s*(?P<right> -)?\}\}(?P<after>\s*)", re.S
)
TERM = re.compile(r'"(?:[^"\\]|\\.)*"|\(index \.Messages 0\)\.Role|\.\w+|\w+|\(|\)')


def _tokens(template: str) -> list[tuple[str, str]]:
    """("text" | "do", content) in order, trim marks carried out."""
    found: list[tuple[str, str]] = []
    position = 0
    while match := ACTION.search(template, position):
        text = template[position : match.start()] + ("" if match["left"] else match["before"])
        found += [("text", text), ("do", match["body"])]
        position = match.end() if match["right"] else match.start("after")
    return [*found, ("text", template[position:])]


def _value(term: str, turn: Turn | None, turns: Sequence[Turn]) -> str:
    if term.startswith('"'):
        return str(json.loads(term))
    if term.startswith("(index"):
        return turns[0]["role"]
    fields = {".Role": "role", ".Content": "content"}
    if turn is None or term not in fields:
        raise ValueError(f"not known in a template: {term}")
    return turn[fields[term]]


def _true(body: str, turn: Turn | None, turns: Sequence[Turn]) -> bool:
    terms = TERM.findall(body)
    if terms[0] == "or":
        parts = re.findall(r"\(((?:eq|ne) [^()]*)\)", body)
        return any(_true(part, turn, turns) for part in parts)
    first, second = (_value(term, turn, turns) for term in terms[1:3])
    return (first == second) == (terms[0] == "eq")


def render(template: str, turns: Sequence[Turn]) -> str:
    """What Ollama makes of ``turns`` (each with ``role`` and ``content``); ValueError for what is not
    known here."""
    tokens = _tokens(template)
    return _block(tokens, 0, None, turns, True)[0]


def _block(
    tokens: list[tuple[str, str]], at: int, turn: Turn | None, turns: Sequence[Turn], live: bool
) -> tuple[str, int, str]:
    """Carries out tokens from ``at`` to the ``else`` or ``end`` that closes the block: (text, where it
    closes, what closes it). Nothing is written unless ``live``."""
    out: list[str] = []
    while at < len(tokens):
        kind, content = tokens[at]
        if kind == "text":
            out.append(content if live else "")
        elif content == "end" or content.startswith("else"):
            return "".join(out), at, content
        elif content.startswith("range"):
            inner, close = "", at
            for one in turns if live and turns else ({},):
                text, close, _ = _block(tokens, at + 1, one, turns, live and bool(one))
                inner += text
            out.append(inner)
            at = close
        elif content.startswith("if"):
            text, at = _choice(tokens, at, content, turn, turns, live)
            out.append(text)
        elif live:
            out.append(_value(content, turn, turns))
        at += 1
    return "".join(out), at, ""


def _choice(
    tokens: list[tuple[str, str]], at: int, content: str, turn: Turn | None, turns: Sequence[Turn], live: bool
) -> tuple[str, int]:
    written, chosen = "", not live
    while True:
        condition = content.removeprefix("else").strip().removeprefix("if").strip()
        here = not chosen and (not condition or _true(condition, turn, turns))
        text, at, content = _block(tokens, at + 1, turn, turns, here)
        written, chosen = written + text, chosen or here
        if content == "end" or not content:
            return written, at
