"""Log-probabilities of target tokens without the vocabulary's logits ever being whole in memory.

For logits z = W h and target y, log p(y) = z_y - logsumexp(z), and its gradient with respect to h is
W_y - sum_v p_v W_v: one vector a token, whatever the loss does with the log-probability afterwards. So the
forward pass over a slice of tokens can leave the gradient behind and drop the logits; the backward pass
multiplies by one number a token.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ._heads import Head

BUDGET = 96 * 2**20
"""Bytes that one slice's logits, and what is computed from them, may take."""
CLOSE = 2 * 2**20
"""Bytes of float32 that are worked on at a time: what stays in the processor's cache is not fetched again."""


def slice_length(vocabulary: int, itemsize: int) -> int:
    """Tokens whose logits fit ``BUDGET``: their float32 copy and two in the model's precision."""
    return max(8, BUDGET // (vocabulary * (4 + 2 * itemsize)))


def _slices(count: int, head: Head, like: Tensor) -> Iterator[slice]:
    step = slice_length(head.vocabulary, like.element_size())
    yield from (slice(start, min(start + step, count)) for start in range(0, count, step))


def log_probs(hidden: Tensor, labels: Tensor, head: Head) -> Tensor:
    """(N, D) hidden states, (N,) target tokens -> (N,) log-probabilities, float32, with gradient."""
    layer = head.plain()
    if layer is not None:
        found: Tensor = _fused()(hidden, labels, layer.weight, layer.bias, head)
        return found
    if head.way == "whole":
        return _of_logits(hidden, labels)
    free = [p for p in head.module.get_output_embeddings().parameters() if p.requires_grad]
    sliced: Tensor = _sliced()(hidden, labels, head, *free)
    return sliced


def _of_logits(logits: Tensor, labels: Tensor) -> Tensor:
    logits = logits.float()
    return logits.gather(1, labels[:, None]).squeeze(1) - logits.logsumexp(dim=1)


def _read(logits: Tensor, labels: Tensor, misses: Tensor | None = None) -> Tensor:
    """(n,) float32 log-probabilities of ``labels`` under (n, V) ``logits``.

    ``misses``, which may be the logits themselves, is filled with their gradient turned round: the
    probabilities, less one for the target."""
    import torch

    count, words = logits.shape
    target = labels[:, None]
    # Read before they may be written over.
    ahead = logits.gather(1, target).squeeze(1).float() - logits.amax(dim=1).float()
    top = torch.empty_like(ahead)
    step = max(1, CLOSE // (4 * words)) if logits.device.type == "cpu" else count
    for start in range(0, count, step):
        at = slice(start, start + step)
        powers = torch.softmax(logits[at], dim=1, dtype=torch.float32)
        top[at] = powers.amax(dim=1)
        if misses is not None:
            # In float32: of a token that is nearly certain, what is left of one is the whole gradient.
            powers.scatter_add_(1, target[at], powers.new_full((1, 1), -1.0).expand(len(powers), 1))
            misses[at] = powers
    return ahead + top.log()


def hits(hidden: Tensor, labels: Tensor, head: Head) -> tuple[Tensor, Tensor]:
    """(N,) float32 log-probabilities, and (N,) bool: whether the target was the likeliest token."""
    import torch

    scores = torch.empty(len(labels), dtype=torch.float32, device=hidden.device)
    right = torch.empty(len(labels), dtype=torch.bool, device=hidden.device)
    layer = head.plain()
    with torch.no_grad():
        for at in _slices(len(labels), head, hidden):
            logits = head.logits(hidden[at]) if layer is None else layer(hidden[at])
            right[at] = logits.argmax(dim=1) == labels[at]
            scores[at] = _read(logits, labels[at])
    return scores, right


@lru_cache
def _fused() -> Any:
    import torch

    class Fused(torch.autograd.Function):
        @staticmethod
        def forward(
            ctx: Any, hidden: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None, head: Head
        ) -> Tensor:
            scores = torch.empty(len(labels), dtype=torch.float32, device=hidden.device)
            slope = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
            for at in _slices(len(labels), head, hidden):
                logits = torch.nn.functional.linear(hidden[at], weight, bias)
                scores[at] = _read(logits, labels[at], None if slope is None else logits)
                if slope is not None:
                    torch.mm(logits.to(weight.dtype), weight, out=slope[at]).neg_()
                del logits  # or they would lie beside those of the next slice
            if slope is not None:
                ctx.save_for_backward(slope)
            return scores

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Any:
            (slope,) = ctx.saved_tensors
            return (slope * grad[:, None]).to(slope.dtype), None, None, None, None

    return Fused.apply


@lru_cache
def _sliced() -> Any:
    import torch

    class Sliced(torch.autograd.Function):
        """For a head that learns, or does more than multiply: each slice is computed again in the backward
        pass. What outlives a slice is allocated before the first one: small things left between large ones
        would keep the allocator from using that memory again, which then grows with every slice."""

        @staticmethod
        def forward(ctx: Any, hidden: Tensor, labels: Tensor, head: Head, *free: nn.Parameter) -> Tensor:
            scores = torch.empty(len(labels), dtype=torch.float32, device=hidden.device)
            kind = hidden.device.type
            ctx.head, ctx.free, ctx.state = head, free, torch.get_rng_state()
            ctx.autocast = kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)
            ctx.save_for_backward(hidden, labels)
            for at in _slices(len(labels), head, hidden):
                scores[at] = _read(head.logits(hidden[at]), labels[at])
            return scores

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Any:
            hidden, labels = ctx.saved_tensors
            sums = [torch.zeros_like(hidden), *(torch.zeros_like(p) for p in ctx.free)]
            # The adapter's dropout draws what it drew before.
            kind, dtype, enabled = ctx.autocast
            cast = torch.autocast(kind, dtype=dtype, enabled=enabled)
            with torch.random.fork_rng(devices=[]), torch.enable_grad(), cast:
                torch.set_rng_state(ctx.state)
                for at in _slices(len(labels), ctx.head, hidden):
                    part = hidden[at].detach().requires_grad_()
                    logits = ctx.head.logits(part)
                    with torch.no_grad():
                        upstream = torch.empty_like(logits)
                        _read(logits, labels[at], upstream)
                        upstream.mul_(-grad[at, None])
                    found = torch.autograd.grad(logits, (part, *ctx.free), upstream, allow_unused=True)
                    sums[0][at] = found[0]
                    for total, one in zip(sums[1:], found[1:], strict=True):
                        if one is not None:
                            total += one
            return sums[0], None, None, *sums[1:]

    return Sliced.apply
