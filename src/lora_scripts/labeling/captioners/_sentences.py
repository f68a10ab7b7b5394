"""From what a model generates to a caption: one line, no thinking aloud, no stutter, no half sentence."""

from __future__ import annotations

import re

LONGEST_PHRASE = 12
"""Words of the longest phrase that is looked at for repetition."""
_THOUGHT = re.compile(r"<think>.*?</think>|^.*?</think>|<think>.*\Z", re.DOTALL)
_TOKEN = re.compile(r"<\|[^<>|\s]*\|>|</?s>|<pad>|<image>|\[(?:CLS|SEP|PAD|UNK|MASK)\]")
_UNSEEN = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f\u200b\ufeff\ufffd]")
_UNSPACED = re.compile(r"([\u3000-\u9fff\uff00-\uffef]{2,40}?)\1{2,}")
_END = re.compile(r"(?:[.!?](?=\s)|[。！？])(?!.*(?:[.!?](?=\s)|[。！？]))", re.DOTALL)


def clean(text: str) -> str:
    """``text`` on one line without special tokens; exact repetitions of a phrase are said once."""
    text = _UNSEEN.sub("", _TOKEN.sub(" ", _THOUGHT.sub(" ", text)))
    text = _UNSPACED.sub(r"\1", text)
    return " ".join(_without_stutter(text.split()))


def whole_sentences(text: str) -> str:
    """``text`` up to its last full stop, where a limit cut it; all of it where it has none."""
    found = _END.search(text + " " if text[-1:] in ".!?" else text)
    return text[: found.end()].strip() if found else text


def _bare(word: str) -> str:
    return word.rstrip(",;.")


def _without_stutter(words: list[str]) -> list[str]:
    """A phrase of two words and more that follows itself, or a word said three times, is kept once; two equal
    words may be meant ("very very", "bora bora"). The last repetition's punctuation stays."""
    kept: list[str] = []
    at = 0
    while at < len(words):
        size, times = _repetition(words, at)
        if times > 1:
            kept += [*words[at : at + size - 1], words[at + size * times - 1]]
        else:
            kept.append(words[at])
        at += size * times
    return kept


def _repetition(words: list[str], at: int) -> tuple[int, int]:
    """The shortest phrase that repeats itself from ``at`` on: its words and how often it stands there."""
    for size in range(1, min(LONGEST_PHRASE, (len(words) - at) // 2) + 1):
        phrase = [_bare(word) for word in words[at : at + size]]
        times = 1
        while [_bare(word) for word in words[at + size * times : at + size * (times + 1)]] == phrase:
            times += 1
        if times >= (3 if size == 1 else 2) and any(phrase):
            return size, times
    return 1, 1
