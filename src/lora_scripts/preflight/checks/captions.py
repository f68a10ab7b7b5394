"""What is worth saying about captions as they will be read: what is cut, and what means nothing here."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from ...config.schema import RunConfig
from ...core.problems import Problem
from ...data.sample import Sample
from ...data.text_files import listing, printable
from ...data.wording import SEPARATOR, has_choice

SHOWN = 5
SEVERAL = 3
"""Tags, or sentences, from which a caption is clearly written in that way."""
MIXED = 0.2
"""Share of the captions that makes the rarer way of writing a habit and no accident."""
_EMPHASIS = re.compile(r"\([^()]+:\d+(?:\.\d+)?\)|\({2,}[^()]+\){2,}")
_SENTENCE = re.compile(r"[.!?。！？](?:\s|$)")
_TAG_WORDS = 3

Cutter = Callable[[str, int], tuple[int, str]]


def check_captions(
    samples: Iterable[Sample], cutter: Cutter, config: RunConfig, limit: int = 0
) -> list[Problem]:
    """``cutter``: caption and limit -> its number of tokens, and the words behind the limit. ``limit``: how
    many tokens are read, by default as the configuration says."""
    texts: dict[str, list[str]] = {}
    written: dict[str, list[str]] = {}
    for sample in samples:
        if not sample.repeat and not sample.size:
            texts.setdefault(sample.caption, []).append(sample.name)
            written.setdefault(str(sample.example.fields["caption"]), []).append(sample.name)
    found = _too_long(texts, cutter, limit or config.max_caption_tokens)
    marked = [name for caption, names in written.items() if _EMPHASIS.search(caption) for name in names]
    if marked:
        told = {"count": len(marked), "names": listing(marked)}
        found.append(Problem("LS2431", told, severity="note"))
    chosen = [name for caption, names in written.items() if has_choice(caption) for name in names]
    if chosen:
        told = {"count": len(chosen), "names": listing(chosen)}
        found.append(Problem("LS2432", told, severity="note"))
    kept = [name for caption, names in texts.items() if SEPARATOR in caption for name in names]
    if kept:
        told = {"count": len(kept), "names": listing(kept)}
        found.append(Problem("LS2433", told, severity="warning"))
    return found + _mixed(written)


def _too_long(texts: dict[str, list[str]], cutter: Cutter, limit: int) -> list[Problem]:
    long = []
    for caption, names in texts.items():
        count, lost = cutter(caption, limit)
        if lost:
            long.append((names, count, lost))
    if not long:
        return []
    shown = [
        f"{printable(names[0], 40)} ({count}): … {printable(lost, 60)}" for names, count, lost in long[:SHOWN]
    ]
    told = {
        "count": sum(len(names) for names, _, _ in long),
        "limit": limit,
        "longest": max(count for _, count, _ in long),
        "shown": "".join(f"\n      {line}" for line in shown),
    }
    return [Problem("LS2430", told, severity="warning")]


def _mixed(written: dict[str, list[str]]) -> list[Problem]:
    """Tags in some captions and sentences in others."""
    tags = [names[0] for caption, names in written.items() if _is_tags(caption)]
    sentences = [names[0] for caption, names in written.items() if _is_prose(caption)]
    if min(len(tags), len(sentences)) <= MIXED * (len(tags) + len(sentences)):
        return []
    told = {"tags": len(tags), "sentences": len(sentences), "first": tags[0], "second": sentences[0]}
    return [Problem("LS2434", told, severity="note")]


def _is_tags(caption: str) -> bool:
    parts = [part.split() for part in caption.split(",")]
    short = sum(len(part) <= _TAG_WORDS for part in parts)
    return len(parts) >= SEVERAL and short >= 0.8 * len(parts) and not _is_prose(caption)


def _is_prose(caption: str) -> bool:
    return _SENTENCE.search(caption) is not None
