"""Attention over packed rows by plain matrix products, block by block: on a CPU in half precision their
backward pass is faster than the fused kernel's."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ._attention_blocks import Block, blocks, collect, penalty
from ._packed_attention import Pack, gathered

if TYPE_CHECKING:
    from torch import Tensor

KEEP_UP_TO = 512
"""Tokens of the longest row up to which attention weights are kept for the backward pass; for longer rows
they would outgrow everything else that is kept, and are computed again."""


@lru_cache
def plain() -> Any:
    """(1, H, T, D), (1, K, T, D) twice, pack, scale, window -> (1, T, H, D). Heads that share keys are one
    longer matrix, so that nothing is repeated."""
    import torch

    def weights_of(
        query: Tensor, key: Tensor, block: Block, pack: Pack, scale: float, window: int | None
    ) -> tuple[Tensor, Tensor]:
        """Queries (K, many * queries, D) and their softmax over the block's keys."""
        groups, many = key.shape[1], query.shape[1] // key.shape[1]
        q = query[0, :, block.queries].reshape(groups, -1, query.shape[-1])
        keys = gathered(key[0], block.seen, 1).transpose(1, 2)
        mask = penalty(pack, block.stop - block.start, keys.shape[2], window, q.dtype, many)
        return q, torch.baddbmm(mask, q, keys, alpha=scale).softmax(dim=-1)

    def apart(tokens_first: Tensor, groups: int) -> Tensor:
        """(queries, H, D) -> (K, many, queries, D), a view."""
        return tokens_first.unflatten(1, (groups, -1)).permute(1, 2, 0, 3)

    class Plain(torch.autograd.Function):
        @staticmethod
        def forward(
            ctx: Any, query: Tensor, key: Tensor, value: Tensor, pack: Pack, scale: float, window: int | None
        ) -> Tensor:
            heads, tokens, width = query.shape[1:]
            groups = key.shape[1]
            out = query.new_empty(1, tokens, heads, width)
            keeps = pack.longest <= KEEP_UP_TO
            kept = []
            for block in blocks(pack, window):
                _, weights = weights_of(query, key, block, pack, scale, window)
                mixed = torch.bmm(weights, gathered(value[0], block.seen, 1))
                place = apart(out[0, block.queries], groups)
                place.copy_(mixed.view(place.shape))
                kept += [weights] if keeps else []
            ctx.save_for_backward(query, key, value, *kept)
            ctx.pack, ctx.scale, ctx.window = pack, scale, window
            return out

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Any:
            query, key, value, *kept = ctx.saved_tensors
            groups, width = key.shape[1], query.shape[-1]
            # In the layout of the projections that they go on to: tokens first. Keys collect from several
            # blocks, so they do it in full precision.
            d_query = torch.empty_like(query.transpose(1, 2))
            d_key, d_value = (
                torch.zeros_like(part.transpose(1, 2), dtype=torch.float32) for part in (key, value)
            )
            for number, block in enumerate(blocks(ctx.pack, ctx.window)):
                mine = block.queries
                if kept:
                    weights = kept[number]
                    q = query[0, :, mine].reshape(groups, -1, width)
                else:
                    q, weights = weights_of(query, key, block, ctx.pack, ctx.scale, ctx.window)
                out = apart(grad[0, mine], groups).reshape(groups, -1, width)
                collect(d_value[0], torch.bmm(weights.transpose(1, 2), out), block)
                inner = torch.bmm(out, gathered(value[0], block.seen, 1).transpose(1, 2))
                inner = torch._softmax_backward_data(inner, weights, -1, weights.dtype)
                place = apart(d_query[0, mine], groups)
                place.copy_(torch.bmm(inner, gathered(key[0], block.seen, 1)).view(place.shape))
                collect(d_key[0], torch.bmm(inner.transpose(1, 2), q), block)
            grads = (d_query.mul_(ctx.scale), d_key.mul_(ctx.scale).to(key.dtype), d_value.to(value.dtype))
            return (*(part.transpose(1, 2) for part in grads), None, None, None)

    return Plain.apply
