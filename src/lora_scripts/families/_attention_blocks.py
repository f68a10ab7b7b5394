"""A pack's queries in blocks, each with the keys that it needs: what attention on a processor goes over."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from ._packed_attention import Pack, Range, band

if TYPE_CHECKING:
    import torch
    from torch import Tensor

BLOCK = 256
"""Queries that are looked at together; of what a causal model never sees, half a block is computed."""


@dataclass(frozen=True)
class Block:
    """Queries ``start`` to ``stop`` of the sequence, all of one run, and where the keys lie that they see."""

    start: int
    stop: int
    seen: tuple[Range, ...]

    @property
    def queries(self) -> slice:
        return slice(self.start, self.stop)


def blocks(pack: Pack, window: int | None) -> list[Block]:
    """Runs cut into at most ``BLOCK`` queries each: a block needs no keys after its last query, nor before
    its first one's window."""
    found = []
    for run in pack.runs:
        length, before = run.stop - run.start, run.keys - (run.stop - run.start)
        count = -(-length // BLOCK)
        for low, high in pairwise(length * i // count for i in range(count + 1)):
            first = 0 if window is None else max(0, before + low - window + 1)
            seen = run.places(first, before + high)
            found.append(Block(run.start + low, run.start + high, seen))
    return found


def penalty(pack: Pack, queries: int, keys: int, window: int | None, dtype: torch.dtype, many: int) -> Tensor:
    """What is added to the scores, (many * queries, keys): 0 where a query sees a key, else -inf."""
    import torch

    key = ("penalty", queries, keys, many, window, dtype)
    if key not in pack.masks:
        seen = band(queries, keys, window, torch.device("cpu"))[0, 0]
        zero = torch.zeros(queries, keys, dtype=dtype)
        pack.masks[key] = zero.masked_fill_(~seen, float("-inf")).repeat(many, 1)
    found: Tensor = pack.masks[key]
    return found


def collect(sums: Tensor, found: Tensor, block: Block) -> None:
    """Adds (K, keys, D) to the keys' places in (T, K, D)."""
    parts = found.transpose(0, 1).split([stop - start for start, stop in block.seen])
    for (start, stop), part in zip(block.seen, parts, strict=True):
        sums[start:stop] += part
