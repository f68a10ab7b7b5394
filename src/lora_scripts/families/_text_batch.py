"""Rows of tokens as one batch: laid end to end, or padded to the longest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ._base import Batch, Item

if TYPE_CHECKING:
    import torch
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


def batch_of(items: Sequence[Item], *, packing: bool) -> Batch:
    """Items as one batch, see ``collate``; with ``references`` (2P,) where preference pairs bring them."""
    import torch

    batch = collate(sequences(items), packing=packing)
    if items and "references" in items[0]:
        batch["references"] = torch.cat([item["references"] for item in items])
    return batch


def _as(values: Any, dtype: str) -> Tensor:
    import torch

    return torch.as_tensor(values).to(getattr(torch, dtype))


def collate(rows: Sequence[tuple[Tensor, Tensor]], *, packing: bool, pad: int = 0) -> Batch:
    """``input_ids`` and ``position_ids`` (1, T) or (B, T); ``at`` (N,), places in the flattened hidden states
    from which a target is predicted; ``labels`` (N,), the targets; ``rows`` (N,), the sequence of each. A
    pack has ``boundaries`` (B + 1,).

    A token is predicted at the place before it in its own row, so that a row's first token is never a
    target. Padding stands on the right and needs no mask: what comes earlier never sees it.
    """
    import torch

    lengths = [len(ids) for ids, _ in rows]
    width = max(lengths, default=0)
    starts = torch.tensor([0, *lengths]).cumsum(0) if packing else torch.arange(len(rows)) * width
    at, labels, owners = [], [], []
    for number, (ids, targets) in enumerate(rows):
        hit = targets[1:].nonzero().squeeze(1)
        at.append(hit + starts[number])
        labels.append(ids[1:][hit])
        owners.append(torch.full_like(hit, number))
    batch: Batch = {
        "at": torch.cat(at) if at else torch.zeros(0, dtype=torch.long),
        "labels": torch.cat(labels) if labels else torch.zeros(0, dtype=torch.long),
        "rows": torch.cat(owners) if owners else torch.zeros(0, dtype=torch.long),
    }
    places = [torch.arange(length) for length in lengths]
    if packing:
        batch["input_ids"] = torch.cat([ids for ids, _ in rows])[None]
        batch["position_ids"] = torch.cat(places)[None]
        batch["boundaries"] = starts
        return batch
    filled: torch.Tensor = torch.full((len(rows), width), pad, dtype=torch.long)
    for number, (ids, _) in enumerate(rows):
        filled[number, : len(ids)] = ids
    batch["input_ids"] = filled
    batch["position_ids"] = torch.arange(width).expand(len(rows), width).contiguous()
    return batch
