"""Attention over packed rows by the FlashAttention for rows of unlike length that PyTorch ships for cards."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ._packed_attention import Pack, band, halves

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def _cumulative(pack: Pack, device: torch.device) -> Tensor:
    import torch

    key = ("cumulative", device)
    if key not in pack.masks:
        pack.masks[key] = torch.tensor(pack.bounds, dtype=torch.int32).to(device, non_blocking=True)
    found: Tensor = pack.masks[key]
    return found


def varlen(query: Tensor, key: Tensor, value: Tensor, pack: Pack, scale: float, window: int | None) -> Tensor:
    """FlashAttention over rows of unlike length, as PyTorch ships it."""
    from torch.nn.attention.varlen import varlen_attn

    bounds, longest = _cumulative(pack, query.device), pack.longest
    left = -1 if window is None or window >= longest else window - 1
    q, k, v = (part[0].transpose(0, 1).contiguous() for part in (query, key, value))
    # without return_aux it gives the outputs alone
    out: Any = varlen_attn(
        q, k, v, bounds, bounds, longest, longest, scale=scale, window_size=(left, 0), enable_gqa=True
    )
    found: Tensor = out.unsqueeze(0)
    return found


@lru_cache
def works(device: torch.device, dtype: torch.dtype, width: int) -> bool:
    """Whether this card runs it and gives what SDPA gives, forward and backward; tried once, on two short
    rows."""
    import torch

    if dtype not in halves():
        return False
    shape = (1, 4, 12, width)
    drawn = torch.Generator("cpu").manual_seed(0)
    parts = [torch.randn(shape, generator=drawn).to(device, dtype) for _ in range(3)]
    parts[1], parts[2] = parts[1][:, :2], parts[2][:, :2]
    pack = Pack((0, 5, 12))
    results = []
    try:
        for own in (True, False):
            q, k, v = (part.detach().clone().requires_grad_() for part in parts)
            if own:
                out = varlen(q, k, v, pack, 0.3, 4)
            else:
                from torch.nn.functional import scaled_dot_product_attention as sdpa

                rows = [
                    sdpa(
                        q[:, :, a:b],
                        k[:, :, a:b],
                        v[:, :, a:b],
                        attn_mask=band(b - a, b - a, 4, device),
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
