"""Rows of a batch that begin alike, as a tree: a causal model computes the same over what they share, so that
is laid down once. All rows share a system prompt, the two answers of a preference pair their question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

WORTH = 16
"""Tokens that sharing must save: a piece is an attention of its own, which costs more than a few tokens."""


@dataclass(frozen=True)
class Piece:
    """Tokens ``start`` to ``stop`` of row ``row``, and of every other one whose chain it is in."""

    row: int
    start: int
    stop: int


@dataclass(frozen=True)
class Tree:
    """``chains``: of each row, the numbers of the pieces that it is made of, in order."""

    pieces: list[Piece]
    chains: list[tuple[int, ...]]

    @property
    def tokens(self) -> int:
        return sum(piece.stop - piece.start for piece in self.pieces)

    @property
    def parents(self) -> list[int]:
        """Of each piece, the one that it goes on from; -1 where a row begins."""
        before: dict[int, int] = {}
        for chain in self.chains:
            before.update(zip(chain, (-1, *chain), strict=False))
        return [before[number] for number in range(len(self.pieces))]


def apart(rows: Sequence[Sequence[int]]) -> Tree:
    """Nothing is shared: a piece a row."""
    pieces = [Piece(number, 0, len(row)) for number, row in enumerate(rows)]
    return Tree(pieces, [(number,) for number in range(len(rows))])


def shared(rows: Sequence[Sequence[int]]) -> Tree:
    """Beginnings that two or more rows share are pieces of their own where that saves ``WORTH`` tokens."""
    pieces: list[Piece] = []
    chains: dict[int, tuple[int, ...]] = {}

    def lay(row: int, start: int, stop: int, chain: tuple[int, ...]) -> tuple[int, ...]:
        if start == stop:
            return chain
        pieces.append(Piece(row, start, stop))
        return (*chain, len(pieces) - 1)

    # Each entry: rows that are alike up to ``start``, which the pieces of ``chain`` cover.
    waiting: list[tuple[list[int], int, tuple[int, ...]]] = [(list(range(len(rows))), 0, ())]
    while waiting:
        members, start, chain = waiting.pop()
        if len(members) == 1:
            (row,) = members
            chains[row] = lay(row, start, len(rows[row]), chain)
            continue
        alike = min(_alike(rows[members[0]], rows[row]) for row in members)
        if (alike - start) * (len(members) - 1) >= WORTH:
            chain, start = lay(members[0], start, alike, chain), alike
        groups: dict[int | None, list[int]] = {}
        for row in members:
            groups.setdefault(rows[row][alike] if alike < len(rows[row]) else None, []).append(row)
        # A row that ends here, and one that goes on as no other does, is alone with the rest of itself.
        ended = [[row] for row in groups.pop(None, [])]
        waiting += [(group, start, chain) for group in reversed([*ended, *groups.values()])]
    return Tree(pieces, [chains[row] for row in range(len(rows))])


def _alike(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two rows have in common before they part."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))
