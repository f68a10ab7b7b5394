"""From what a captioner says to the caption that is written: fixed words around it, words changed or gone."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from lora_scripts.data.captions import clean, contains, is_empty, with_trigger

from ._captioner import Words

Cutter = Callable[[str, int], tuple[int, str]]
"""Caption and limit -> its CLIP tokens (0: surely within the limit), and the words behind the limit."""
Join = Literal["keep", "append", "prepend"]
FIELDS = ("caption", "trigger", "folder")
_STRAY = re.compile(r"\s*([,，])(?:\s*[,，])+")
_BEFORE = re.compile(r"\s+([,，;；.。!?])")
_EDGES = " ,，;；"


@dataclass(frozen=True)
class Phrase:
    """A caption as it is to be written.

    ``tokens``: its CLIP tokens, where a limit asks for them. ``cut``: the words that ``most`` took away, or
    that training is going to take away.
    """

    text: str
    tokens: int = 0
    cut: str = ""


class BadTemplate(ValueError):  # noqa: N818 - a word of the command line
    """A template that cannot be filled; the message is the field that does not exist, or ""."""


def check_template(template: str) -> set[str]:
    """The fields of ``template``. Raises ``BadTemplate``."""
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError as error:
        raise BadTemplate("") from error
    fields = {name for _, name, _, _ in parsed if name is not None}
    for name in fields:
        if name not in FIELDS:
            raise BadTemplate(name)
    if any(spec or conversion for _, _, spec, conversion in parsed):
        raise BadTemplate("")
    return fields


def _as_word(text: str) -> re.Pattern[str]:
    """``text`` wherever it stands as words of its own, with blanks or underscores, whatever its case."""
    pattern = r"[\s_]+".join(re.escape(part) for part in re.split(r"[\s_]+", text.strip()) if part)
    first, last = text.strip()[:1], text.strip()[-1:]
    before = r"(?<![A-Za-z0-9_])" if first.isascii() and first.isalnum() else ""
    behind = r"(?![A-Za-z0-9_])" if last.isascii() and last.isalnum() else ""
    return re.compile(before + pattern + behind, re.IGNORECASE)


def _tidy(text: str) -> str:
    """No doubled or leading separators where words were taken away."""
    return clean(_BEFORE.sub(r"\1", _STRAY.sub(r"\1", clean(text)))).strip(_EDGES)


@dataclass(frozen=True)
class Phrasing:
    """Rules for every caption of a run.

    ``blacklist``: words that are left out, and tags that are. ``replace``: (old, new), in order. ``least``,
    ``most``: CLIP tokens; None is no such limit. ``warn``: tokens from which on training cuts.
    """

    template: str = "{caption}"
    trigger: str = ""
    replace: tuple[tuple[str, str], ...] = ()
    blacklist: tuple[str, ...] = ()
    least: int | None = None
    most: int | None = None
    warn: int = 75
    cutter: Cutter | None = field(default=None, repr=False)

    def phrase(self, words: Words, folder: str, before: str = "", join: Join = "keep") -> Phrase:
        """The caption of a picture in ``folder``; ``before``: the one that it has, which new words join."""
        said = self.words(words)
        if join == "keep" or is_empty(before):
            filled = self.template.format(caption=said, trigger=self.trigger, folder=folder)
            return self._fitted(with_trigger(_tidy(filled), self.trigger))
        said = _without(said, before)
        both = (before, said) if join == "append" else (said, before)
        joined = ", ".join(part.strip(_EDGES) for part in both if not is_empty(part))
        return self._fitted(with_trigger(clean(joined), self.trigger))

    def words(self, words: Words) -> str:
        """A captioner's sentence and tags as one text, with what is left out and replaced."""
        sentence = clean(words.text)
        barred = [_as_word(word) for word in self.blacklist]
        for word in barred:
            sentence = word.sub("", sentence)
        tags = [clean(tag.name) for tag in words.tags]
        tags = [tag for tag in tags if not any(word.fullmatch(tag) for word in barred)]
        text = ", ".join(part for part in (sentence.rstrip(".") if tags else sentence, *tags) if part)
        for old, new in self.replace:
            text = new.join(_as_word(old).split(text))
        return _tidy(text)

    def _fitted(self, text: str) -> Phrase:
        if self.cutter is None:
            return Phrase(text)
        limit = self.warn if self.most is None else self.most
        tokens, rest = self.cutter(text, limit)
        if not rest or self.most is None:
            if self.least is not None and not rest:
                tokens = count(self.cutter, text)
            return Phrase(text, tokens, rest)
        kept = _up_to(text, rest)
        return Phrase(kept, min(tokens, limit), clean(text[len(kept) :]).strip(_EDGES))


def count(cutter: Cutter, text: str) -> int:
    """CLIP tokens of ``text``."""
    return cutter(text, 0)[0]


def _up_to(text: str, rest: str) -> str:
    """``text`` without ``rest``, its end, and without a word or a tag that was cut in two."""
    kept = text[: len(text) - len(rest)]
    tag = max(kept.rfind(","), kept.rfind("，"))
    if tag > len(kept) // 2:
        return kept[:tag].strip(_EDGES)
    if kept and not kept[-1].isspace() and kept[-1].isascii() and kept[-1].isalnum() and rest[0].isalnum():
        kept = kept[: kept.rfind(" ") + 1] or kept
    return kept.strip(_EDGES)


def _without(said: str, before: str) -> str:
    """Of the comma-separated parts of ``said`` those that ``before`` does not hold already."""
    parts = [part.strip() for part in re.split(r"[,，]", said)]
    return ", ".join(part for part in parts if part and not contains(before, part))


def pairs(written: Iterable[str]) -> list[tuple[str, str]]:
    """``old=new`` as typed. Raises ValueError with the text that has no ``=`` or nothing before it."""
    found = []
    for text in written:
        old, equals, new = text.partition("=")
        if not equals or not old.strip():
            raise ValueError(text)
        found.append((old.strip(), new.strip()))
    return found


def listed(written: Iterable[str]) -> tuple[str, ...]:
    """Words of a list that is written with commas, or given several times."""
    return tuple(word.strip() for text in written for word in re.split(r"[,，]", text) if word.strip())
