"""Attention over rows that lie end to end in one sequence: each row sees itself only, and none pays for the
others. Rows that begin alike may share the beginning, see ``_shared_beginnings``. It is registered with
Transformers under a name; without a pack it is Transformers' own SDPA."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

NAME = "lora_scripts_packed"


class NotPackableError(ValueError):
    """This model asks its attention for something that rows laid end to end cannot have."""


Range = tuple[int, int]
"""Places of the sequence: the first one, and the one after the last."""


@dataclass(frozen=True)
class Run:
    """A stretch of the sequence with what it sees: ``seen`` are the places of its row from the row's first
    token to the run's last, in the row's order."""

    start: int
    stop: int
    seen: tuple[Range, ...]

    @cached_property
    def keys(self) -> int:
        return sum(stop - start for start, stop in self.seen)

    def places(self, first: int, last: int) -> tuple[Range, ...]:
        """Where the row's tokens ``first`` to ``last`` lie."""
        found, passed = [], 0
        for start, stop in self.seen:
            low, high = max(start, start + first - passed), min(stop, start + last - passed)
            found += [(low, high)] if low < high else []
            passed += stop - start
        return tuple(found)


@dataclass(frozen=True)
class Pack:
    """Where rows lie: run i covers places ``bounds[i]`` to ``bounds[i + 1]`` and goes on from run
    ``parents[i]``, an earlier one; -1 or no parents: it begins a row. ``masks`` holds what all layers share
    during one pass."""

    bounds: tuple[int, ...]
    parents: tuple[int, ...] = ()
    masks: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def runs(self) -> list[Run]:
        found: list[Run] = []
        parents = self.parents or (-1,) * (len(self.bounds) - 1)
        for start, stop, parent in zip(self.bounds, self.bounds[1:], parents, strict=False):
            seen = found[parent].seen if parent >= 0 else ()
            joined = bool(seen) and seen[-1][1] == start
            own = (seen[-1][0], stop) if joined else (start, stop)
            found.append(Run(start, stop, (*(seen[:-1] if joined else seen), own)))
        return found

    @property
    def shares(self) -> bool:
        """Whether a run goes on from another one."""
        return any(parent >= 0 for parent in self.parents)

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(run.keys for run in self.runs)


_CURRENT: ContextVar[Pack | None] = ContextVar("pack", default=None)


@contextmanager
def packed(bounds: Sequence[int], parents: Sequence[int] = ()) -> Iterator[None]:
    """Within it, models that were loaded with this attention take their one sequence as this ``Pack``."""
    token = _CURRENT.set(Pack(tuple(bounds), tuple(parents)))
    try:
        yield
    finally:
        _CURRENT.reset(token)


@contextmanager
def _again(pack: Pack | None) -> Iterator[None]:
    token = _CURRENT.set(pack)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def checkpoint_contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """``context_fn`` of ``torch.utils.checkpoint``: what is computed again in the backward pass, perhaps in
    another thread and after other batches, sees the rows that it saw the first time."""
    return nullcontext(), _again(_CURRENT.get())


def register() -> str:
    """Makes the attention known to Transformers and returns its name (``attn_implementation``)."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, mask)
    return NAME


def mask(*args: Any, **kwargs: Any) -> Tensor | None:
    """No mask at all for a pack, whose rows are taken apart; else the one of SDPA."""
    from transformers.masking_utils import sdpa_mask

    pack = _CURRENT.get()
    if pack is None:
        return sdpa_mask(*args, **kwargs)
    chunk = getattr(kwargs.get("config"), "attention_chunk_size", None)
    if kwargs.get("use_vmap") or (chunk is not None and chunk < pack.longest):
        raise NotPackableError("a mask beyond causal and sliding")
    return None


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """(B, H, T, D), (B, K, T, D) twice -> (B, T, H, D). Interface of Transformers' attention functions.

    ``softcap``: scores become ``softcap * tanh(score / softcap)`` (Gemma 2). ``s_aux`` (H,): the logit of a
    place that takes attention and gives nothing (GPT-OSS).
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    pack = _CURRENT.get()
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    bends = softcap is not None or s_aux is not None
    if pack is None:
        if not bends:
            return sdpa_attention_forward(
                module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
            )
        if attention_mask is None:
            attention_mask = band(query.shape[2], key.shape[2], sliding_window, query.device)
        return _bent(query, key, value, attention_mask, scale, dropout, softcap, s_aux).transpose(1, 2), None

    causal = kwargs.get("is_causal")
    if not (getattr(module, "is_causal", True) if causal is None else causal) or attention_mask is not None:
        raise NotPackableError("attention that is not causal")
    if query.shape[0] != 1 or query.shape[2] != pack.bounds[-1] or key.shape[2] != query.shape[2]:
        raise NotPackableError("attention over another sequence than the pack")
    if kwargs.get("position_bias") is not None:
        raise NotPackableError("a bias by position")

    if not bends and dropout == 0.0:
        if query.device.type == "cpu" and (way := _way_of_a_processor(query, key, value)) is not None:
            return way(query, key, value, pack, scale, sliding_window), None
        if query.device.type == "cuda":
            from ._varlen_attention import varlen, works

            if works(query.device, query.dtype, query.shape[-1], pack.shares):
                return varlen(query, key, value, pack, scale, sliding_window), None
    outs = []
    seen: Tensor | None
    for run in pack.runs:
        queries, keys = run.stop - run.start, run.keys
        q = query[:, :, run.start : run.stop]
        k, v = (gathered(part, run.seen, 2) for part in (key, value))
        if bends:
            seen = _shared_band(pack, queries, keys, sliding_window, query.device)
            out = _bent(q, k, v, seen, scale, dropout, softcap, s_aux)
        else:
            from torch.nn.functional import scaled_dot_product_attention as sdpa

            windowed = sliding_window is not None and keys > sliding_window
            # SDPA's own causal mask counts from the first key, not from the last.
            masked = windowed or keys > queries
            seen = _shared_band(pack, queries, keys, sliding_window, query.device) if masked else None
            many = q.shape[1] // k.shape[1]
            if many > 1:
                k, v = (part.repeat_interleave(many, dim=1) for part in (k, v))
            out = sdpa(q, k, v, attn_mask=seen, is_causal=seen is None, scale=scale, dropout_p=dropout)
        outs.append(out.transpose(1, 2))
    import torch

    return torch.cat(outs, dim=1), None


def _way_of_a_processor(*parts: Tensor) -> Any:
    """What attends to these queries, keys and values in blocks; None where they are not of one kind, or are
    yet to be cast."""
    import torch

    from ._flash_attention import flash
    from ._plain_attention import plain

    if len({(part.dtype, part.shape[-1]) for part in parts}) > 1:
        return None
    if parts[0].dtype in halves():
        return plain()
    return None if torch.is_autocast_enabled("cpu") else flash()


def gathered(tensor: Tensor, ranges: Sequence[Range], dim: int) -> Tensor:
    """The places of ``ranges`` along ``dim``; a view where they are one."""
    import torch

    parts = [tensor.narrow(dim, start, stop - start) for start, stop in ranges]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=dim)


def halves() -> tuple[torch.dtype, ...]:
    import torch

    return torch.bfloat16, torch.float16


def band(queries: int, keys: int, window: int | None, device: torch.device) -> Tensor:
    """(1, 1, queries, keys) bool: what a causal model sees, the last query being at the last key."""
    import torch

    behind = torch.arange(keys - queries, keys, device=device)[:, None] - torch.arange(keys, device=device)
    seen = behind >= 0
    if window is not None:
        seen &= behind < window
    return seen[None, None]


def _shared_band(pack: Pack, queries: int, keys: int, window: int | None, device: torch.device) -> Tensor:
    key = (queries, keys, window, device)
    if key not in pack.masks:
        pack.masks[key] = band(queries, keys, window, device)
    found: Tensor = pack.masks[key]
    return found


def _bent(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    seen: Tensor,
    scale: float,
    dropout: float,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """Attention whose scores are softcapped or that has sinks: (B, H, T, D), softmax in float32."""
    import torch
    from torch.nn import functional as F

    many = query.shape[1] // key.shape[1]
    if many > 1:
        key, value = (part.repeat_interleave(many, dim=1) for part in (key, value))
    scores = torch.matmul(query, key.transpose(2, 3)) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.float()
    if seen.dtype == torch.bool:
        scores = scores.masked_fill(~seen, torch.finfo(torch.float32).min)
    else:
        scores = scores + seen
    if sinks is not None:
        sink = sinks.float().reshape(1, -1, 1, 1).expand(*scores.shape[:3], 1)
        weights = torch.cat([scores, sink], dim=-1).softmax(dim=-1)[..., :-1]
    else:
        weights = scores.softmax(dim=-1)
    weights = F.dropout(weights.to(query.dtype), p=dropout)
    return torch.matmul(weights, value)
