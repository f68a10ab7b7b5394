"""Attention over packed rows by the FlashAttention for rows of unlike length that PyTorch ships for cards."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from ._packed_attention import Pack, band, gathered, halves

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Places:
    """A pack as the kernel takes it: cumulative lengths of queries and of keys, both (runs + 1,) int32, and
    which keys each run sees, one run after another; None where those are the keys as they lie."""

    queries: Tensor
    keys: Tensor
    order: Tensor | None


def _places(pack: Pack, device: torch.device) -> Places:
    import torch

    key = ("places", device)
    if key not in pack.masks:

        def there(values: list[int], dtype: torch.dtype) -> Tensor:
            return torch.tensor(values, dtype=dtype).to(device, non_blocking=True)

        queries = keys = there(list(pack.bounds), torch.int32)
        order = None
        if pack.shares:
            keys = there(list(accumulate((run.keys for run in pack.runs), initial=0)), torch.int32)
            seen = [place for run in pack.runs for part in run.seen for place in range(*part)]
            order = there(seen, torch.int64)
        pack.masks[key] = Places(queries, keys, order)
    found: Places = pack.masks[key]
    return found


def varlen(query: Tensor, key: Tensor, value: Tensor, pack: Pack, scale: float, window: int | None) -> Tensor:
    """FlashAttention over rows of unlike length; a run's last query stands at its last key."""
    from torch.nn.attention.varlen import varlen_attn

    places, longest = _places(pack, query.device), pack.longest
    left = -1 if window is None or window >= longest else window - 1
    q, k, v = (part[0].transpose(0, 1).contiguous() for part in (query, key, value))
    if places.order is not None:
        # Indexed rather than selected: several gradients for one key are then summed in a fixed order.
        k, v = k[places.order], v[places.order]
    most = max(run.stop - run.start for run in pack.runs)
    # without return_aux it gives the outputs alone
    out: Any = varlen_attn(
        q,
        k,
        v,
        places.queries,
        places.keys,
        most,
        longest,
        scale=scale,
        window_size=(left, 0),
        enable_gqa=True,
    )
    found: Tensor = out.unsqueeze(0)
    return found


@lru_cache
def works(device: torch.device, dtype: torch.dtype, width: int, shares: bool) -> bool:
    """Whether this card runs it and gives what SDPA gives, forward and backward; tried once, on two short
    rows, or on ones that share a beginning."""
    import torch

    if dtype not in halves():
        return False
    shape = (1, 4, 12, width)
    drawn = torch.Generator("cpu").manual_seed(0)
    parts = [torch.randn(shape, generator=drawn).to(device, dtype) for _ in range(3)]
    parts[1], parts[2] = parts[1][:, :2], parts[2][:, :2]
    pack = Pack((0, 3, 7, 12), (-1, 0, 0)) if shares else Pack((0, 5, 12))
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
                        q[:, :, run.start : run.stop],
                        gathered(k, run.seen, 2),
                        gathered(v, run.seen, 2),
                        attn_mask=band(run.stop - run.start, run.keys, 4, device),
                        scale=0.3,
                        enable_gqa=True,
                    )
                    for run in pack.runs
                ]
                out = torch.cat(rows, dim=2).transpose(1, 2)
            out.float().square().sum().backward()
            results.append([out.detach(), *(part.grad for part in (q, k, v))])
    except (RuntimeError, NotImplementedError, ImportError):
        return False
    return all(
        torch.allclose(a.float(), b.float(), atol=0.05, rtol=0.05) for a, b in zip(*results, strict=True)
    )
