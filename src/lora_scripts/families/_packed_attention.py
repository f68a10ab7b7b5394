"""Attention over rows that lie end to end in one sequence: each row sees itself only, and none pays for the
others. It is registered with Transformers under a name; without a pack it is Transformers' own SDPA."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

NAME = "lora_scripts_packed"


class NotPackableError(ValueError):
    """This model asks its attention for something that rows laid end to end cannot have."""


@dataclass(frozen=True)
class Pack:
    """Where rows lie: row i covers tokens ``bounds[i]`` to ``bounds[i + 1]``. ``masks`` holds what all layers
    share during one pass."""

    bounds: tuple[int, ...]
    masks: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def rows(self) -> list[tuple[int, int]]:
        return list(pairwise(self.bounds))

    @property
    def longest(self) -> int:
        return max(stop - start for start, stop in self.rows)


_CURRENT: ContextVar[Pack | None] = ContextVar("pack", default=None)


@contextmanager
def packed(bounds: Sequence[int]) -> Iterator[None]:
    """Within it, models that were loaded with this attention take their one sequence as a pack of rows."""
    token = _CURRENT.set(Pack(tuple(bounds)))
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
            attention_mask = _band(query.shape[2], key.shape[2], sliding_window, query.device)
        return _bent(query, key, value, attention_mask, scale, dropout, softcap, s_aux).transpose(1, 2), None

    causal = kwargs.get("is_causal")
    if not (getattr(module, "is_causal", True) if causal is None else causal) or attention_mask is not None:
        raise NotPackableError("attention that is not causal")
    if query.shape[0] != 1 or query.shape[2] != pack.bounds[-1] or key.shape[2] != query.shape[2]:
        raise NotPackableError("attention over another sequence than the pack")
    if kwargs.get("position_bias") is not None:
        raise NotPackableError("a bias by position")

    if not bends and dropout == 0.0:
        if query.device.type == "cpu" and query.dtype in _halves() and key.shape[1:] == value.shape[1:]:
            return _plain()(query, key, value, pack, scale, sliding_window), None
        if query.device.type == "cuda" and _varlen_works(query.device, query.dtype, query.shape[-1]):
            return _varlen(query, key, value, pack, scale, sliding_window), None
    outs = []
    for start, stop in pack.rows:
        q, k, v = (part[:, :, start:stop] for part in (query, key, value))
        windowed = sliding_window is not None and stop - start > sliding_window
        if bends:
            seen = _shared_band(pack, stop - start, sliding_window, query.device)
            out = _bent(q, k, v, seen, scale, dropout, softcap, s_aux)
        else:
            from torch.nn.functional import scaled_dot_product_attention as sdpa

            seen = _shared_band(pack, stop - start, sliding_window, query.device) if windowed else None
            many = q.shape[1] // k.shape[1]
            if many > 1:
                k, v = (part.repeat_interleave(many, dim=1) for part in (k, v))
            out = sdpa(q, k, v, attn_mask=seen, is_causal=seen is None, scale=scale, dropout_p=dropout)
        outs.append(out.transpose(1, 2))
    import torch

    return torch.cat(outs, dim=1), None


def _halves() -> tuple[torch.dtype, ...]:
    import torch

    return torch.bfloat16, torch.float16


def _band(queries: int, keys: int, window: int | None, device: torch.device) -> Tensor:
    """(1, 1, queries, keys) bool: what a causal model sees, the last query being at the last key."""
    import torch

    behind = torch.arange(keys - queries, keys, device=device)[:, None] - torch.arange(keys, device=device)
    seen = behind >= 0
    if window is not None:
        seen &= behind < window
    return seen[None, None]


def _shared_band(pack: Pack, length: int, window: int | None, device: torch.device) -> Tensor:
    key = (length, window, device)
    if key not in pack.masks:
        pack.masks[key] = _band(length, length, window, device)
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


@lru_cache
def _plain() -> Any:
    """Plain matrix products, row by row: on a CPU in half precision their backward pass is faster than the
    fused kernel's. Heads that share keys are one longer matrix, so that nothing is repeated."""
    import torch

    def penalty(pack: Pack, length: int, many: int, window: int | None, like: Tensor) -> Tensor:
        key = ("penalty", length, many, window, like.dtype)
        if key not in pack.masks:
            seen = _shared_band(pack, length, window, like.device)[0, 0]
            zero = torch.zeros(length, length, dtype=like.dtype)
            pack.masks[key] = zero.masked_fill_(~seen, float("-inf")).repeat(many, 1)
        found: Tensor = pack.masks[key]
        return found

    class Plain(torch.autograd.Function):
        @staticmethod
        def forward(
            ctx: Any, query: Tensor, key: Tensor, value: Tensor, pack: Pack, scale: float, window: int | None
        ) -> Tensor:
            heads, tokens, width = query.shape[1:]
            groups = key.shape[1]
            many = heads // groups
            out = query.new_empty(1, tokens, heads, width)
            kept = []
            for start, stop in pack.rows:
                size = stop - start
                q = query[0, :, start:stop].reshape(groups, many * size, width)
                keys = key[0, :, start:stop].transpose(1, 2)
                scores = torch.baddbmm(penalty(pack, size, many, window, q), q, keys, alpha=scale)
                weights = scores.softmax(dim=-1)
                mixed = torch.bmm(weights, value[0, :, start:stop])
                out[0, start:stop].view(size, groups, many, width).copy_(
                    mixed.view(groups, many, size, width).permute(2, 0, 1, 3)
                )
                kept.append(weights)
            ctx.save_for_backward(query, key, value, *kept)
            ctx.pack, ctx.scale = pack, scale
            return out

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
            query, key, value, *kept = ctx.saved_tensors
            heads, _, width = query.shape[1:]
            groups = key.shape[1]
            many = heads // groups
            # In the layout of the projections that they go on to: tokens first.
            d_query, d_key, d_value = (torch.empty_like(part.transpose(1, 2)) for part in (query, key, value))
            for (start, stop), weights in zip(ctx.pack.rows, kept, strict=True):
                size = stop - start
                q = query[0, :, start:stop].reshape(groups, many * size, width)
                keys, values = key[0, :, start:stop], value[0, :, start:stop]
                out = grad[0, start:stop].view(size, groups, many, width).permute(1, 2, 0, 3)
                out = out.reshape(groups, many * size, width)
                d_value[0, start:stop].copy_(torch.bmm(weights.transpose(1, 2), out).transpose(0, 1))
                inner = torch.bmm(out, values.transpose(1, 2))
                inner = torch._softmax_backward_data(inner, weights, -1, weights.dtype)
                flat = torch.bmm(inner, keys).view(groups, many, size, width).permute(2, 0, 1, 3)
                d_query[0, start:stop].view(size, groups, many, width).copy_(flat)
                d_key[0, start:stop].copy_(torch.bmm(inner.transpose(1, 2), q).transpose(0, 1))
            d_query.mul_(ctx.scale)
            d_key.mul_(ctx.scale)
            return (*(part.transpose(1, 2) for part in (d_query, d_key, d_value)), None, None, None)

    return Plain.apply


def _cumulative(pack: Pack, device: torch.device) -> Tensor:
    import torch

    key = ("cumulative", device)
    if key not in pack.masks:
        pack.masks[key] = torch.tensor(pack.bounds, dtype=torch.int32).to(device, non_blocking=True)
    found: Tensor = pack.masks[key]
    return found


def _varlen(
    query: Tensor, key: Tensor, value: Tensor, pack: Pack, scale: float, window: int | None
) -> Tensor:
    """FlashAttention over rows of unlike length, as PyTorch ships it."""
    from torch.nn.attention.varlen import varlen_attn

    bounds, longest = _cumulative(pack, query.device), pack.longest
    left = -1 if window is None or window >= longest else window - 1
    q, k, v = (part[0].transpose(0, 1).contiguous() for part in (query, key, value))
    out = varlen_attn(
        q, k, v, bounds, bounds, longest, longest, scale=scale, window_size=(left, 0), enable_gqa=True
    )
    return out[None]  # type: ignore[index]


@lru_cache
def _varlen_works(device: torch.device, dtype: torch.dtype, width: int) -> bool:
    """Whether this card runs it and gives what SDPA gives, forward and backward; tried once, on two short
    rows."""
    import torch

    if dtype not in _halves():
        return False
    shape = (1, 4, 12, width)
    drawn = torch.Generator("cpu").manual_seed(0)
    parts = [torch.randn(shape, generator=drawn).to(device, dtype) for _ in range(3)]
    parts[1], parts[2] = parts[1][:, :2], parts[2][:, :2]
    pack = Pack((0, 5, 12))
    results = []
    try:
        for varlen in (True, False):
            q, k, v = (part.detach().clone().requires_grad_() for part in parts)
            if varlen:
                out = _varlen(q, k, v, pack, 0.3, 4)
            else:
                from torch.nn.functional import scaled_dot_product_attention as sdpa

                rows = [
                    sdpa(
                        *(part[:, :, a:b] for part in (q, k, v)),
                        attn_mask=_band(b - a, b - a, 4, device),
                        scale=0.3,
                        enable_gqa=True,
                    )
                    for a, b in pack.rows
                ]
                out = torch.cat(rows, dim=2).transpose(1, 2)
            out.float().square().sum().backward()
            results.append([out.detach(), *(part.grad for part in (q, k, v))])
    except (RuntimeError, NotImplementedError, ImportError):
        return False
    return all(
        torch.allclose(a.float(), b.float(), atol=0.05, rtol=0.05) for a, b in zip(*results, strict=True)
    )
