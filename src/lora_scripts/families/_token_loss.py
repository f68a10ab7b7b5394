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
    from torch import Tensor

    from ._heads import Head

BUDGET = 96 * 2**20
"""Bytes that one slice's logits, and what is computed from them, may take."""


def slice_length(vocabulary: int, itemsize: int) -> int:
    """Tokens whose logits fit ``BUDGET``: float32 logits, a second buffer of the same size, and two in the
    model's precision."""
    return max(8, BUDGET // (vocabulary * (8 + 2 * itemsize)))


def _slices(count: int, head: Head, like: Tensor) -> Iterator[slice]:
    step = slice_length(head.vocabulary, like.element_size())
    yield from (slice(start, min(start + step, count)) for start in range(0, count, step))


def log_probs(hidden: Tensor, labels: Tensor, head: Head) -> Tensor:
    """(N, D) hidden states, (N,) target tokens -> (N,) log-probabilities, float32, with gradient."""
    import torch

    layer = head.plain()
    if layer is not None:
        found: Tensor = _fused()(hidden, labels, layer.weight, layer.bias, head)
        return found
    from torch.utils.checkpoint import checkpoint

    from ._packed_attention import checkpoint_contexts

    parts = [
        checkpoint(
            _of_slice, hidden[at], labels[at], head, use_reentrant=False, context_fn=checkpoint_contexts
        )
        for at in _slices(len(labels), head, hidden)
    ]
    return torch.cat(parts) if parts else hidden.new_zeros(0, dtype=torch.float32)


def _of_slice(hidden: Tensor, labels: Tensor, head: Head) -> Tensor:
    logits = head.logits(hidden).float()
    return logits.gather(1, labels[:, None]).squeeze(1) - logits.logsumexp(dim=1)


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
            target = logits.gather(1, labels[at, None]).squeeze(1).float()
            scores[at] = target - logits.float().logsumexp(dim=1)
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
                target = labels[at, None]
                chosen = logits.gather(1, target).float()
                # In place from here on: one float32 copy is all that a slice may cost.
                powers = logits.float()
                top = powers.amax(dim=1, keepdim=True)
                powers.sub_(top).exp_()
                total = powers.sum(dim=1, keepdim=True)
                scores[at] = (chosen - top - total.log()).squeeze(1)
                if slope is not None:
                    powers.div_(total.neg_())
                    powers.scatter_add_(1, target, torch.ones_like(chosen))
                    torch.mm(powers.to(weight.dtype), weight, out=slope[at])
            if slope is not None:
                ctx.save_for_backward(slope)
            return scores

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Any:
            (slope,) = ctx.saved_tensors
            return (slope * grad[:, None]).to(slope.dtype), None, None, None, None

    return Fused.apply
