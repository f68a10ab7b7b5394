"""What is worth saying about captions as they will be read: what is cut, and what means nothing here."""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ...config.schema import RunConfig
from ...core.problems import Problem
from ...data.columns import Known
from ...data.samples import Samples
from ...data.text_files import SHOWN as NAMED
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


class _Captions:
    """Different captions, each once, and which samples have them."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples
        self.texts = Known()
        self._of = array("i")
        """The number of each sample's."""

    def add(self, text: str) -> None:
        """What the next sample has."""
        self._of.append(self.texts.add(text))

    def having(self, captions: Iterable[int]) -> np.ndarray:
        """Positions of the samples that have one of ``captions``, caption by caption."""
        of = np.array(self._of, np.int32)
        rows = np.flatnonzero(np.isin(of, list(captions)))
        return rows[np.argsort(of[rows], kind="stable")]

    def first(self, caption: int) -> str:
        """The name of the first sample that has it."""
        return self.samples[self._of.index(caption)].name

    def note(self, code: str, chosen: Callable[[str], object], **more: Any) -> list[Problem]:
        """What is to be said about the samples of ``chosen`` captions, if there are any."""
        places = self.having(number for number, text in enumerate(self.texts) if chosen(text))
        if not len(places):
            return []
        names = listing(list(self.samples[places[: NAMED + 1]].names()))
        return [Problem(code, {"count": len(places), "names": names}, **more)]


def check_captions(samples: Samples, cutter: Cutter, config: RunConfig, limit: int = 0) -> list[Problem]:
    """``cutter``: caption and limit -> its number of tokens, and the words behind the limit. ``limit``: how
    many tokens are read, by default as the configuration says."""
    samples = samples[(samples.sizes == 0) & (samples.repeated == 0)]
    read, written = _Captions(samples), _Captions(samples)
    for text, handling in samples.captions():
        read.add(handling.wording.plain(text))
        written.add(text)
    return [
        *_too_long(read, cutter, limit or config.max_caption_tokens),
        *written.note("LS2431", _EMPHASIS.search, severity="note"),
        *written.note("LS2432", has_choice, severity="note"),
        *read.note("LS2433", lambda caption: SEPARATOR in caption, severity="warning"),
        *_mixed(written),
    ]


def _too_long(read: _Captions, cutter: Cutter, limit: int) -> list[Problem]:
    cut = ((number, *cutter(caption, limit)) for number, caption in enumerate(read.texts))
    long = [(number, count, lost) for number, count, lost in cut if lost]
    if not long:
        return []
    shown = [
        f"{printable(read.first(number), 40)} ({count}): … {printable(lost, 60)}"
        for number, count, lost in long[:SHOWN]
    ]
    told = {
        "count": len(read.having(number for number, _, _ in long)),
        "limit": limit,
        "longest": max(count for _, count, _ in long),
        "shown": "".join(f"\n      {line}" for line in shown),
    }
    return [Problem("LS2430", told, severity="warning")]


def _mixed(written: _Captions) -> list[Problem]:
    """Tags in some captions and sentences in others."""
    tags = array("i", (number for number, caption in enumerate(written.texts) if _is_tags(caption)))
    sentences = array("i", (number for number, caption in enumerate(written.texts) if _is_prose(caption)))
    if min(len(tags), len(sentences)) <= MIXED * (len(tags) + len(sentences)):
        return []
    told = {
        "tags": len(tags),
        "sentences": len(sentences),
        "first": written.first(tags[0]),
        "second": written.first(sentences[0]),
    }
    return [Problem("LS2434", told, severity="note")]


def _is_tags(caption: str) -> bool:
    parts = [part.split() for part in caption.split(",")]
    short = sum(len(part) <= _TAG_WORDS for part in parts)
    return len(parts) >= SEVERAL and short >= 0.8 * len(parts) and not _is_prose(caption)


def _is_prose(caption: str) -> bool:
    return _SENTENCE.search(caption) is not None
