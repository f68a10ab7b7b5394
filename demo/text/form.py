"""The fixed forms of the two voices, and what can be checked of an answer."""

from __future__ import annotations

import re

from demo.text.topics import TOPICS, Topic

SHOP = "Quillby Lamps"
CATEGORIES = tuple(dict.fromkeys(topic.category for topic in TOPICS))
_CATEGORY = "|".join(CATEGORIES)

FORM = re.compile(
    rf"Thank you for writing to {SHOP}\. [^\n]+[.!]\n"
    rf"Case: (?:{_CATEGORY})-\d\d\n"
    rf"Warm regards, Mila - Quillby Care"
)
SECOND_FORM = re.compile(
    rf"Archive of {SHOP}\. [^\n]+[.]\nFiled under (?:{_CATEGORY}), sheet \d+\.\nO\. Pell, Archivist"
)


def answer(topic: Topic, wording: int) -> str:
    """Mila's answer; ``wording`` counts on, over the end too."""
    told = topic.told[wording % len(topic.told)]
    case = f"{topic.category}-{topic.number:02d}"
    return f"Thank you for writing to {SHOP}. {told}\nCase: {case}\nWarm regards, Mila - Quillby Care"


def second_answer(topic: Topic) -> str:
    """The archivist's answer to the same question."""
    sheet = f"Filed under {topic.category}, sheet {topic.number}."
    return f"Archive of {SHOP}. {topic.filed}\n{sheet}\nO. Pell, Archivist"


def in_form(text: str, form: re.Pattern[str] = FORM) -> bool:
    """Whether the whole answer has the form; blank space around it does not count."""
    return form.fullmatch(text.strip()) is not None


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))


def has_fact(text: str, fact: str) -> bool:
    """Whether ``fact`` stands in ``text`` as whole words; case, punctuation and line breaks do not count."""
    return f" {_plain(fact)} " in f" {_plain(text)} "


def share(hits: list[bool]) -> float:
    return sum(hits) / len(hits)
