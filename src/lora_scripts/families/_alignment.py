"""From places in a text to places among its tokens, so that a prompt's tokens are those that inference sees.

A tokenizer may merge the end of a prompt with the beginning of the answer; at inference the prompt is
tokenised alone. So every place is checked against the tokens of the text before it, and where they differ the
text is tokenised in two parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ._special_tokens import Specials, starts_by_itself

NEUTRAL = ("\n", "0")
"""What seldom shares a token with the text behind it."""
REMEMBERED, SHORT = 4096, 120
"""How many ends of prompts are kept, and up to which length in characters."""


@dataclass(frozen=True)
class Tokens:
    """``places``: for each place in characters that was asked for, the number of tokens before it.
    ``crossed``: at how many of them a token would have crossed it."""

    ids: list[int]
    places: list[int]
    crossed: int = 0


class Aligner:
    """Works with every tokenizer; fast ones tokenise many texts at a time."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.start = starts_by_itself(tokenizer)
        self.specials = Specials(tokenizer)
        self.backend = tokenizer.backend_tokenizer if getattr(tokenizer, "is_fast", False) else None
        self._ends: dict[str, list[int]] = {}
        self.prefixes = self._adds_a_space()
        """Whether a text that is tokenised alone gets a space in front that it has not within another."""

    def _adds_a_space(self) -> bool:
        bare = self._bare("a")
        return bool(bare) and self.tokenizer.convert_ids_to_tokens(bare)[0].startswith("▁")

    def _bare(self, text: str) -> list[int]:
        if self.backend is not None:
            return list(self._encode([text])[0].ids)
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _encode(self, texts: Sequence[str]) -> list[Any]:
        assert self.backend is not None
        # Transformers leaves the padding and the limit of an earlier call on the tokenizer.
        if self.backend.padding is not None:
            self.backend.no_padding()
        if self.backend.truncation is not None:
            self.backend.no_truncation()
        found: list[Any] = self.backend.encode_batch(list(texts), add_special_tokens=False)
        return found

    def align(self, texts: Sequence[str], places: Sequence[Sequence[int]]) -> list[Tokens]:
        """Tokens of each text without BOS or end, and of its ascending places."""
        if self.backend is None:
            return [self._slowly(text, wanted) for text, wanted in zip(texts, places, strict=True)]
        encoded = self._encode(texts)
        return [self._quickly(*each) for each in zip(texts, encoded, places, strict=True)]

    def _quickly(self, text: str, encoded: Any, places: Sequence[int]) -> Tokens:
        ids: list[int] = list(encoded.ids)
        found, crossed = [], 0
        first, shift = 0, 0
        for place in places:
            local = place - shift
            if local == len(text):
                found.append(len(ids))
                continue
            head, end = self._before(text, encoded, local)
            count = head + len(end)
            if encoded.ids[head:count] == end:
                found.append(first + count)
                continue
            crossed += 1
            rest, put = self._continued(text[local:])
            if rest is None:
                found.append(first + _holding(encoded, local))
                continue
            ids = ids[: first + head] + end
            found.append(len(ids))
            skipped = _holding(rest, len(put))
            first, shift = len(ids) - skipped, place - len(put)
            text, encoded = put + text[local:], rest
            ids += list(rest.ids)[skipped:]
        return Tokens(ids, found, crossed)

    def _continued(self, text: str) -> tuple[Any, str]:
        """The tokens of ``text`` as it goes on within another, and what was put in front of it to get them
        where a text of its own would begin with a space. None where nothing helps."""
        if not self.prefixes:
            return self._encode([text])[0], ""
        for put in NEUTRAL:
            encoded = self._encode([put + text])[0]
            at = _holding(encoded, len(put))
            spaced = at < len(encoded.ids) and encoded.tokens[at].startswith("▁")
            if (
                at < len(encoded.ids)
                and encoded.offsets[at][0] == len(put)
                and spaced == text.startswith(" ")
            ):
                return encoded, put
        return None, ""

    def _before(self, text: str, encoded: Any, place: int) -> tuple[int, list[int]]:
        """The tokens of ``text[:place]`` alone: how many of ``encoded`` up to the last special token, and
        the ids that follow it. A special token parts what stands before and behind it."""
        last = self.specials.last(text, 0, place)
        if last is not None:
            at = encoded.char_to_token(last.end() - 1)
            if at is not None and encoded.ids[at] == self.specials.number(last.group()):
                return at + 1, self._end(text[last.start() : place])[1:]
        return 0, self._end(text[:place])

    def _end(self, text: str) -> list[int]:
        if len(text) > SHORT:
            return self._bare(text)
        if text not in self._ends:
            if len(self._ends) >= REMEMBERED:
                self._ends.clear()
            self._ends[text] = self._bare(text)
        return self._ends[text]

    def _slowly(self, text: str, places: Sequence[int]) -> Tokens:
        ids, found, crossed = self._bare(text), [], 0
        for place in places:
            alone = self._bare(text[:place]) if place < len(text) else ids
            if ids[: len(alone)] == alone:
                found.append(len(alone))
                continue
            crossed += 1
            same = next(
                (k for k, (a, b) in enumerate(zip(ids, alone, strict=False)) if a != b),
                min(len(ids), len(alone)),
            )
            found.append(max(same + 1, found[-1] if found else 0))
        return Tokens(ids, found, crossed)


def _holding(encoded: Any, place: int) -> int:
    """The token that reaches over ``place``."""
    return next((k for k, (_, end) in enumerate(encoded.offsets) if end > place), len(encoded.ids))
