"""A tokenizer's special tokens, which stand for no text: where they lie, and what it adds by itself."""

from __future__ import annotations

import re
from collections import deque
from typing import Any


class Specials:
    """Finds special tokens in texts, the longest first where one begins like another."""

    def __init__(self, tokenizer: Any) -> None:
        added = getattr(tokenizer, "added_tokens_decoder", {}).values()
        words = {str(token) for token in added if token.special} | set(tokenizer.all_special_tokens)
        ordered = sorted(words, key=lambda word: (-len(word), word))
        self._pattern = re.compile("|".join(map(re.escape, ordered))) if ordered else None
        self._tokenizer = tokenizer
        self._numbers: dict[str, int] = {}

    def last(self, text: str, start: int = 0, end: int | None = None) -> re.Match[str] | None:
        """The last special token that lies in ``text[start:end]`` as a whole."""
        if self._pattern is None:
            return None
        found = self._pattern.finditer(text, start, len(text) if end is None else end)
        kept = deque(found, maxlen=1)
        return kept[0] if kept else None

    def within(self, text: str) -> set[str]:
        """All special tokens that ``text`` spells."""
        return set() if self._pattern is None else set(self._pattern.findall(text))

    def number(self, token: str) -> int:
        if token not in self._numbers:
            self._numbers[token] = int(self._tokenizer.convert_tokens_to_ids(token))
        return self._numbers[token]


def starts_by_itself(tokenizer: Any) -> list[int]:
    """The ids that a tokenizer puts in front of every text (BOS), if any."""
    bare = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    full = list(tokenizer("a")["input_ids"])
    for start in range(len(full) - len(bare) + 1):
        if full[start : start + len(bare)] == bare:
            return full[:start]
    return []


def is_token(tokenizer: Any, token: str) -> bool:
    """Whether the base reads ``token`` as one word of its own."""
    ids = tokenizer(token, add_special_tokens=False)["input_ids"]
    return len(ids) == 1 and ids[0] != tokenizer.unk_token_id
