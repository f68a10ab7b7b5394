"""Rows of tokens as one batch: laid end to end, what they share at their beginning once, or padded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from . import _shared_beginnings as beginnings
from ._base import Batch, Item

if TYPE_CHECKING:
    from torch import Tensor


def sequences(items: Sequence[Item]) -> list[tuple[Tensor, Tensor]]:
    """(ids, targets) of each sequence; a preference pair gives two, the chosen answer's before the
    rejected one's, so that pair k is sequences 2k and 2k + 1."""
    found = []
    for item in items:
        found.append((_as(item["ids"], "int64"), _as(item["targets"], "bool")))
        if item.get("rejected_ids") is not None:
            found.append((_as(item["rejected_ids"], "int64"), _as(item["rejected_targets"], "bool")))
    return found


def batch_of(items: Sequence[Item], *, packing: bool, sharing: bool = False) -> Batch:
    """Items as one batch, see ``collate``; with ``references`` (2P,) where preference pairs bring them."""
    import torch

    batch = collate(sequences(items), packing=packing, sharing=sharing)
    if items and "references" in items[0]:
        batch["references"] = torch.cat([item["references"] for item in items])
    return batch


def _as(values: Any, dtype: str) -> Tensor:
    import torch

    return torch.as_tensor(values).to(getattr(torch, dtype))


@dataclass(frozen=True)
class Laid:
    """Rows as the model takes them: ``tokens`` and ``positions``, (1, T) of a pack or (B, T) padded;
    ``places``, of each row where its tokens lie in the flattened batch; of a pack also the ``bounds`` and
    ``parents`` of its runs (see ``_packed_attention.Pack``)."""

    tokens: Tensor
    positions: Tensor
    places: list[Tensor]
    bounds: Tensor | None = None
    parents: Tensor | None = None


def lay(rows: Sequence[Tensor], *, packing: bool, sharing: bool = False, pad: int = 0) -> Laid:
    """Padding stands on the right and needs no mask: what comes earlier never sees it."""
    import torch

    if not packing:
        lengths, width = [len(row) for row in rows], max(map(len, rows), default=0)
        filled = torch.full((len(rows), width), pad, dtype=torch.long)
        for number, row in enumerate(rows):
            filled[number, : len(row)] = row
        positions = torch.arange(width).expand(len(rows), width).contiguous()
        places = [torch.arange(length) + width * number for number, length in enumerate(lengths)]
        return Laid(filled, positions, places)
    tokens = [row.tolist() for row in rows]
    tree = beginnings.shared(tokens) if sharing else beginnings.apart(tokens)
    bounds = torch.tensor([0, *(piece.stop - piece.start for piece in tree.pieces)]).cumsum(0)
    runs = [torch.arange(low, high) for low, high in pairwise(bounds.tolist())]
    return Laid(
        torch.cat([rows[piece.row][piece.start : piece.stop] for piece in tree.pieces])[None],
        torch.cat([torch.arange(piece.start, piece.stop) for piece in tree.pieces])[None],
        [torch.cat([runs[number] for number in chain]) for chain in tree.chains],
        bounds,
        torch.tensor(tree.parents),
    )


def collate(
    rows: Sequence[tuple[Tensor, Tensor]], *, packing: bool, sharing: bool = False, pad: int = 0
) -> Batch:
    """``input_ids`` and ``position_ids`` (1, T) or (B, T); ``at`` (N,), places in the flattened hidden states
    from which a target is predicted; ``labels`` (N,), the targets; ``rows`` (N,), the sequence of each. A
    pack has ``boundaries`` (R + 1,) and ``parents`` (R,) of its runs.

    A token is predicted at the place before it in its own row, so that a row's first token is never a
    target. ``sharing``: rows of a pack that begin alike share those places, see ``_shared_beginnings``.
    """
    import torch

    laid = lay([ids for ids, _ in rows], packing=packing, sharing=sharing, pad=pad)
    at, labels, owners = [], [], []
    for number, ((ids, targets), places) in enumerate(zip(rows, laid.places, strict=True)):
        hit = targets[1:].nonzero().squeeze(1)
        at.append(places[hit])
        labels.append(ids[1:][hit])
        owners.append(torch.full_like(hit, number))
    batch: Batch = {
        "at": torch.cat(at) if at else torch.zeros(0, dtype=torch.long),
        "labels": torch.cat(labels) if labels else torch.zeros(0, dtype=torch.long),
        "rows": torch.cat(owners) if owners else torch.zeros(0, dtype=torch.long),
        "input_ids": laid.tokens,
        "position_ids": laid.positions,
    }
    if laid.bounds is not None:
        batch["boundaries"], batch["parents"] = laid.bounds, laid.parents
    return batch
