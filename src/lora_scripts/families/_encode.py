"""From rows of a text data set to token sequences in which the right tokens carry loss.

No token is masked by its number: a padding token that is also the end token keeps its loss, since loss
follows places in the text alone.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice, pairwise
from typing import Any, Literal

import numpy as np

from lora_scripts.core.problems import Location, Problem, ProblemsError
from lora_scripts.data.chat import TextExample, Turn
from lora_scripts.data.token_table import TokenRow

from ._alignment import Aligner, Tokens
from ._chat import Chat, Thinking
from ._chat_rows import Piece, Rows

OnLong = Literal["truncate", "split", "drop"]

ENDS, CUT, DOCUMENT = 1, 2, 4
"""Bits of ``TokenRow.flags``: an end token is learnt; tokens are missing at the end; plain text."""
BATCH_EXAMPLES = 256
NAMED = 8
KINDS = (
    "truncated", "split", "dropped", "unanswered", "unlearnt", "apart", "crossed", "tools_unused", "spelt",
)  # fmt: skip
"""What is counted, row by row: see ``Encoder.tallies``."""


@dataclass
class Tally:
    """How many rows something happened to, and the first of them by name."""

    count: int = 0
    places: list[str] = field(default_factory=list)

    def add(self, where: Location) -> None:
        self.count += 1
        if len(self.places) < NAMED:
            self.places.append(str(where))


@dataclass(frozen=True)
class Learnt:
    """``ids`` (T,) int32 and ``targets`` (T,) bool. ``end``: the end token that is learnt last; ``cut``: it
    was, or the text goes on in another row."""

    ids: np.ndarray
    targets: np.ndarray
    end: int | None
    document: bool = False
    cut: bool = False

    def __len__(self) -> int:
        return len(self.ids)


class Encoder:
    """Encodes examples for one tokenizer.

    ``max_length``: tokens of a row at most; ``loss_on``: ``answers`` or ``all``; ``system``: the prompt of
    rows that have none; ``on_long``: what happens to a longer row. ``truncate`` cuts its end; ``split`` cuts
    plain text into windows, and a conversation at its users' turns into parts that fit, each with the system
    prompt (a single exchange and a pair are truncated); ``drop`` leaves it out. A row that loses all its
    answers is left out too. ``thinking``: an empty ``<think></think>`` stays in the prompt, as for a
    client that turns thinking off, or is dropped. ``chat_template``: None, a built-in name or a file.

    ``tallies``: by kind, how many rows were truncated, split, dropped, unanswered (nothing left to answer),
    unlearnt (nothing in them is learnt), apart (each answer became a row of its own), crossed (a token would
    have crossed the edge between prompt and answer), name tools that the template leaves out, or have
    control tokens spelt in what is said. ``spelt``: those tokens. ``ends``: end token -> how often it is
    learnt last. ``files``: what ``TokenRow.file`` counts in.

    Raises ProblemsError LS1032, LS1033 for the template.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        max_length: int,
        loss_on: str = "answers",
        system: str | None = None,
        on_long: OnLong = "truncate",
        thinking: Thinking = "keep",
        chat_template: str | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.chat = Chat(tokenizer, chat_template, thinking)
        self.rows = Rows(self.chat, everything=loss_on == "all", system=system)
        self.aligner = Aligner(tokenizer)
        self.max_length = max_length
        self.on_long = on_long
        self.files: list[str] = []
        self._files: dict[str, int] = {}
        self.tallies = {kind: Tally() for kind in KINDS}
        self.ends: Counter[int] = Counter()
        self.spelt: set[str] = set()
        own = chat_template is None and hasattr(tokenizer, "encode_conversation")
        self.native = tokenizer.encode_conversation if own else None
        """A tokenizer that encodes conversations by itself, control tokens by number."""

    def encode(self, example: TextExample) -> list[TokenRow]:
        """The rows of one example: none where it was dropped, several where it was split.

        Raises ProblemsError LS2200, LS2203 to LS2206 with the place.
        """
        return self._finish(example, self._alone(example))

    def _alone(self, example: TextExample) -> list[Learnt]:
        [found] = self._sequences([example])
        assert found is not None
        return found

    def encode_all(
        self, examples: Iterable[TextExample], wrong: Callable[[Problem], object]
    ) -> Iterator[tuple[TextExample, TokenRow]]:
        """As ``encode``, many at a time; ``wrong`` is told about each example that cannot be encoded."""
        source = iter(examples)
        while batch := list(islice(source, BATCH_EXAMPLES)):
            for example, found in zip(batch, self._sequences(batch, wrong), strict=True):
                try:
                    rows = [] if found is None else self._finish(example, found)
                except ProblemsError as error:
                    for problem in error.problems:
                        wrong(problem)
                    continue
                for row in rows:
                    yield example, row

    def _sequences(
        self, examples: Sequence[TextExample], wrong: Callable[[Problem], object] | None = None
    ) -> list[list[Learnt] | None]:
        """The sequences of each example, of any length: of a pair, two. None where it cannot be encoded:
        ``wrong`` is told, and without it that is raised."""
        pieces: list[list[Piece]] = []
        ready: dict[int, list[Learnt]] = {}
        refused: set[int] = set()
        for number, example in enumerate(examples):
            pieces.append([])
            try:
                if self.native is not None:
                    ready[number] = self._natively(example)
                else:
                    pieces[-1] = list(
                        self.rows.pair(example) if example.is_pair else self.rows.pieces(example)
                    )
            except ProblemsError as error:
                if wrong is None:
                    raise
                refused.add(number)
                for problem in error.problems:
                    wrong(problem)
        flat = [piece for group in pieces for piece in group]
        places = [[place for span in piece.spans for place in span] for piece in flat]
        tokens = iter(self.aligner.align([piece.text for piece in flat], places))
        found: list[list[Learnt] | None] = []
        for number, (example, group) in enumerate(zip(examples, pieces, strict=True)):
            got = [next(tokens) for _ in group]
            if any(each.crossed for each in got):
                self.tallies["crossed"].add(example.where)
                group, got = self._again(example, group, got)
            made = [self._sequence(*each) for each in zip(group, got, strict=True)]
            found.append(None if number in refused else ready.get(number, made))
        return found

    def _again(
        self, example: TextExample, group: list[Piece], got: list[Tokens]
    ) -> tuple[list[Piece], list[Tokens]]:
        """A text with several answers that was tokenised in parts: later prompts hold the earlier ones as a
        client tokenises them, so each answer becomes a row of its own."""
        if example.is_pair or not any(len(piece.spans) > 1 for piece in group) or self.rows.everything:
            return group, got
        group = self.rows.pieces(example, apart=True)
        places = [[place for span in piece.spans for place in span] for piece in group]
        return group, self.aligner.align([piece.text for piece in group], places)

    def _natively(self, example: TextExample) -> list[Learnt]:
        assert self.native is not None
        if example.text is not None:
            words = self.tokenizer.words
            ids = [*self.aligner.start, *words.encode(example.text), words.end]
            targets = np.arange(len(ids)) >= len(self.aligner.start)
            return [Learnt(np.array(ids, np.int32), targets, words.end, True)]
        turns = self.rows.with_system(example.turns)
        if example.is_pair:
            prompt = [replace(turn, train=False) for turn in turns]
            rows = [
                self.native([*prompt, *answer], example.tools)[-1]
                for answer in (example.chosen, example.rejected)
            ]
        else:
            rows = self.native(turns, example.tools)
        found = []
        for ids, targets in rows:
            mask = np.ones(len(ids), np.bool_) if self.rows.everything else np.array(targets, np.bool_)
            ended = bool(len(ids)) and bool(targets[-1])
            found.append(_trimmed(np.array(ids, np.int32), mask, ids[-1] if ended else None, False))
        return [sequence for sequence in found if sequence.targets.any()]

    def _sequence(self, piece: Piece, tokens: Tokens) -> Learnt:
        start = self.aligner.start if piece.bos else []
        eos = self.tokenizer.eos_token_id if piece.eos else None
        ids = [*start, *tokens.ids, *([] if eos is None else [eos])]
        targets = np.zeros(len(ids), np.bool_)
        for first, last in zip(tokens.places[::2], tokens.places[1::2], strict=True):
            targets[len(start) + first : len(start) + last] = True
        if eos is not None:
            targets[-1] = True
        end = eos if piece.eos else self._closing(piece)
        return _trimmed(np.array(ids, np.int32), targets, end, piece.document)

    def _closing(self, piece: Piece) -> int | None:
        """The end token of a text that has one, from its last special token."""
        last = self.rows.specials.last(piece.text, max(0, len(piece.text.rstrip()) - 64))
        return None if last is None else self.rows.specials.number(last.group())

    def _finish(self, example: TextExample, found: list[Learnt]) -> list[TokenRow]:
        """Long rows as asked for, all that happened counted, places written down."""
        where = example.where
        if not found:
            self.tallies["unlearnt"].add(where)
            return []
        if example.tools and self.native is None and not self.chat.shows_tools:
            self.tallies["tools_unused"].add(where)
        if spelt := self._spelt(example):
            self.tallies["spelt"].add(where)
            self.spelt |= spelt
        if example.is_pair:
            return self._pair(found[0], found[1], where)
        if len(found) > 1:
            self.tallies["apart"].add(where)
        if all(len(sequence) <= self.max_length for sequence in found):
            return [self._row(sequence, where) for sequence in found]
        if self.on_long == "drop":
            self.tallies["dropped"].add(where)
            return [self._row(one, where) for one in found if len(one) <= self.max_length]
        if self.on_long == "split":
            parts = self._windows(found[0]) if found[0].document else self._parts(example)
            if len(parts) > 1:
                self.tallies["split"].add(where)
                found = parts
        return [self._row(each, where) for each in self._cut(found, where) if each is not None]

    def _spelt(self, example: TextExample) -> set[str]:
        """Control tokens in what is said in a conversation, which the tokenizer takes for the template's."""
        if self.native is not None or not self.chat:
            return set()
        turns = (*example.turns, *example.chosen, *example.rejected)
        said = (part for turn in turns for part in (turn.content, turn.reasoning) if part)
        return set().union(*map(self.rows.specials.within, said))

    def _pair(self, chosen: Learnt, rejected: Learnt, where: Location) -> list[TokenRow]:
        if max(len(chosen), len(rejected)) > self.max_length and self.on_long == "drop":
            self.tallies["dropped"].add(where)
            return []
        first, second = self._cut([chosen, rejected], where, together=True)
        if first is None or second is None:
            return []
        if second.end is None:
            first = replace(first, end=None, cut=second.cut)
        row = self._row(first, where)
        return [replace(row, rejected_ids=second.ids, rejected_targets=second.targets)]

    def _cut(self, found: list[Learnt], where: Location, *, together: bool = False) -> list[Learnt | None]:
        """Each with at most ``max_length`` tokens, None where no answer is left. An example is counted once;
        ``together``: it is worth nothing when one of them is None."""
        limit = self.max_length
        kept: list[Learnt | None] = []
        for each in found:
            if len(each) <= limit:
                kept.append(each)
                continue
            shorter = _trimmed(each.ids[:limit], each.targets[:limit], None, each.document)
            kept.append(replace(shorter, cut=True) if shorter.targets.any() else None)
        lost = kept.count(None)
        if lost:
            self.tallies["unanswered"].add(where)
        pairs = zip(kept, found, strict=True)
        if any(each is not None and each is not old for each, old in pairs) and not (together and lost):
            self.tallies["truncated"].add(where)
        return kept

    def _windows(self, sequence: Learnt) -> list[Learnt]:
        """A plain text in windows of equal length; each begins as the tokenizer begins a text."""
        start = len(self.aligner.start)
        body, size = sequence.ids[start:], max(1, self.max_length - start)
        bounds = np.linspace(0, len(body), math.ceil(len(body) / size) + 1).astype(np.int64)
        found = []
        for first, last in pairwise(bounds.tolist()):
            ids = np.concatenate([sequence.ids[:start], body[first:last]])
            targets = np.arange(len(ids)) >= max(1, start)
            whole = last == len(body)
            found.append(Learnt(ids, targets, sequence.end if whole else None, True, not whole))
        return found

    def _parts(self, example: TextExample) -> list[Learnt]:
        """A long conversation in as few parts as fit, each from a user's turn on."""
        turns = self.rows.with_system(example.turns)
        head = [turn for turn in turns[:1] if turn.role == "system"]
        exchanges: list[list[Turn]] = []
        for turn in turns[len(head) :]:
            if turn.role == "user" or not exchanges:
                exchanges.append([])
            exchanges[-1].append(turn)

        def encoded(part: list[list[Turn]]) -> list[Learnt]:
            inside = [turn for exchange in part for turn in exchange]
            return self._alone(replace(example, turns=(*head, *inside)))

        found: list[Learnt] = []
        part: list[list[Turn]] = []
        for exchange in exchanges:
            longer = encoded([*part, exchange])
            if part and any(len(sequence) > self.max_length for sequence in longer):
                found += encoded(part)
                part = []
            part.append(exchange)
        return found + encoded(part)

    def _row(self, sequence: Learnt, where: Location) -> TokenRow:
        if where.file not in self._files:
            self._files[where.file] = len(self.files)
            self.files.append(where.file)
        if sequence.end is not None:
            self.ends[sequence.end] += 1
        told = {ENDS: sequence.end is not None, CUT: sequence.cut, DOCUMENT: sequence.document}
        return TokenRow(
            ids=sequence.ids,
            targets=sequence.targets,
            file=self._files[where.file],
            line=where.line or 0,
            flags=sum(bit for bit, true in told.items() if true),
        )


def _trimmed(ids: np.ndarray, targets: np.ndarray, end: int | None, document: bool) -> Learnt:
    """Without the tokens behind the last one that is learnt, which nothing depends on. A first token has
    nothing before it to be predicted from."""
    targets = targets.copy()
    targets[:1] = False
    learnt = np.flatnonzero(targets)
    stop = int(learnt[-1]) + 1 if len(learnt) else 0
    return Learnt(ids[:stop], targets[:stop], end, document)
