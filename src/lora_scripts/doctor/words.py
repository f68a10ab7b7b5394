"""Captions: what they say most often, and what is worth changing in them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ..core.problems import Problem
from ..data.captions import contains, is_empty
from ..data.manifest import Example
from ..data.text_files import printable
from ..data.wording import Wording
from .report import Finding, Item

SAME = 0.8
"""Share of the pictures that one caption must have to be called the caption of all."""
FEW = 5
"""Pictures below which nothing is said about captions that are alike."""
MOST = 200
"""Words that a report lists."""
Cutter = Callable[[str, int], tuple[int, str]]
_TAG_WORDS = 4
_WORD = re.compile(r"[^\W\d_](?:[\w'’-]*\w)?", re.UNICODE)
_SPLIT = re.compile(r"[,，、;；]")
_STOP = frozenset(
    {"a", "an", "and", "are", "as", "at", "by", "for", "from", "has", "her", "his", "in", "is", "it", "its"}
    | {"of", "on", "or", "that", "the", "their", "there", "this", "to", "with"}
)


def caption_of(example: Example) -> str:
    return str(example.fields["caption"])


def from_folder(example: Example) -> bool:
    """Whether the caption is the name of the picture's folder, as kohya's folders mean it."""
    return Path(example.where.file) == example.fields["image"]


def item_of(example: Example, **facts: object) -> Item:
    return Item(str(example.fields["name"]), example.fields["image"], facts=facts)


def frequencies(captions: Sequence[str]) -> tuple[Counter[str], bool]:
    """How many captions hold each tag, and True; of captions that are sentences each word, and False."""
    written = [caption for caption in captions if not is_empty(caption)]
    parts = [[part.strip() for part in _SPLIT.split(caption) if part.strip()] for caption in written]
    tags = [part for row in parts for part in row]
    short = sum(len(tag.split()) <= _TAG_WORDS for tag in tags)
    as_tags = short * 2 > len(tags) and len(tags) >= 2 * len(written)
    if as_tags:
        return Counter(tag for row in parts for tag in {part.casefold() for part in row}), True
    words = ({word.casefold() for word in _WORD.findall(caption)} - _STOP for caption in written)
    return Counter(word for row in words for word in row), False


def look_at_words(
    examples: Sequence[Example], cutter: Cutter, wording: Wording, *, trigger: str | None, limit: int
) -> tuple[list[Finding], list[int]]:
    """What is wrong with the captions, and the number of CLIP tokens of each long one as it will be learnt.

    ``trigger``: a word that each caption must hold as it is written.
    """
    found: list[Finding] = []
    empty = [example for example in examples if is_empty(caption_of(example))]
    if empty:
        told = {"count": len(empty)}
        found.append(_finding("empty", Problem("LS3209", told, severity="warning"), map(item_of, empty)))
    written = [example for example in examples if not is_empty(caption_of(example))]
    long, counts = _too_long(written, cutter, wording, limit)
    if long:
        told = {"count": len(long), "limit": limit}
        found.append(_finding("long", Problem("LS3210", told, severity="warning"), long))
    found += _all_alike(written)
    if trigger:
        without = [example for example in written if not contains(caption_of(example), trigger)]
        if without:
            lacking = {"count": len(without), "trigger": printable(trigger)}
            items = [item_of(each, caption=printable(caption_of(each), 200)) for each in without]
            found.append(_finding("trigger", Problem("LS3212", lacking, severity="warning"), items))
    return found, counts


def _finding(kind: str, problem: Problem, items: Iterable[Item]) -> Finding:
    return Finding(kind, problem, tuple((item,) for item in items))


def _too_long(
    examples: Sequence[Example], cutter: Cutter, wording: Wording, limit: int
) -> tuple[list[Item], list[int]]:
    long, counts = [], []
    known: dict[str, tuple[int, str]] = {}
    for example in examples:
        text = wording.plain(caption_of(example))
        if text not in known:
            known[text] = cutter(text, limit)
        count, lost = known[text]
        counts.append(count)
        if lost:
            long.append(item_of(example, tokens=count, lost=printable(lost, 200)))
    return long, counts


def _all_alike(examples: Sequence[Example]) -> list[Finding]:
    own = [example for example in examples if not from_folder(example)]
    if len(own) < FEW:
        return []
    caption, count = Counter(map(caption_of, own)).most_common(1)[0]
    if count < SAME * len(own):
        return []
    told = {"count": count, "total": len(own), "caption": printable(caption)}
    items = [item_of(example) for example in own if caption_of(example) == caption]
    return [_finding("alike", Problem("LS3211", told, severity="warning"), items)]
