"""Attention over packed rows by the fused kernel for processors, block by block: in float32 it is faster than
plain matrix products. Of each token, queries, keys, values and outputs are kept, once."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ._attention_blocks import Block, blocks, collect, penalty
from ._packed_attention import Pack, gathered

if TYPE_CHECKING:
    from torch import Tensor


@lru_cache
def flash() -> Any:
    """(1, H, T, D), (1, K, T, D) twice, pack, scale, window -> (1, T, H, D)."""
    import torch

    forward_of = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    backward_of = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward

    def even(tensor: Tensor) -> Tensor:
        """The kernel takes it for granted that the numbers of a head lie one after another."""
        return tensor if tensor.stride(-1) == 1 else tensor.contiguous()

    def of(
        block: Block, pack: Pack, window: int | None, query: Tensor, key: Tensor, value: Tensor
    ) -> tuple[Tensor, ...]:
        """A block's queries, keys, values and mask."""
        q, k, v = query[:, :, block.queries], gathered(key, block.seen, 2), gathered(value, block.seen, 2)
        mask = penalty(pack, q.shape[2], k.shape[2], window, q.dtype, 1)
        return q, k, v, mask[None, None]

    class Flash(torch.autograd.Function):
        @staticmethod
        def forward(
            ctx: Any, query: Tensor, key: Tensor, value: Tensor, pack: Pack, scale: float, window: int | None
        ) -> Tensor:
            query, key, value = even(query), even(key), even(value)
            out = query.new_empty(1, query.shape[2], query.shape[1], query.shape[3])
            sums = []
            for block in blocks(pack, window):
                *given, mask = of(block, pack, window, query, key, value)
                own, sum_ = forward_of(*given, attn_mask=mask, scale=scale)
                out[:, block.queries] = own.transpose(1, 2)
                sums.append(sum_)
            ctx.save_for_backward(query, key, value, out, *sums)
            ctx.pack, ctx.scale, ctx.window = pack, scale, window
            return out

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Any:
            query, key, value, out, *sums = ctx.saved_tensors
            # In the layout of the projections that they go on to: tokens first.
            d_query = torch.empty_like(query.transpose(1, 2))
            d_key, d_value = (torch.zeros_like(part.transpose(1, 2)) for part in (key, value))
            for block, sum_ in zip(blocks(ctx.pack, ctx.window), sums, strict=True):
                *given, mask = of(block, ctx.pack, ctx.window, query, key, value)
                mine, own = (part[:, block.queries].transpose(1, 2) for part in (grad, out))
                found = backward_of(mine, *given, own, sum_, 0.0, False, attn_mask=mask, scale=ctx.scale)
                d_query[:, block.queries] = found[0].transpose(1, 2)
                collect(d_key[0], found[1][0], block)
                collect(d_value[0], found[2][0], block)
            return *(part.transpose(1, 2) for part in (d_query, d_key, d_value)), None, None, None

    return Flash.apply
