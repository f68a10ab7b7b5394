"""From any causal model: its last hidden states, and the way from them to its logits, slice by slice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor, nn

PROBE = 12
"""Tokens that are tried when a model is loaded."""


@dataclass(frozen=True)
class Head:
    """``way``: ``linear``, logits are the head layer's plain product; ``own``, the model does more to them
    (caps, scales), and its own code computes them from hidden states; ``whole``, they cannot be had apart
    from a full pass, so that the whole logits stand for the hidden states: right, but not lean.
    """

    module: Any
    way: Literal["linear", "own", "whole"]
    vocabulary: int

    def states(self, ids: Tensor, places: Tensor) -> Tensor:
        """(B, T) tokens and positions -> (B, T, D) what ``logits`` takes."""
        if self.way == "whole":
            return self._run(ids, position_ids=places).logits
        return _backbone(self.module)(input_ids=ids, position_ids=places, use_cache=False).last_hidden_state

    def logits(self, states: Tensor) -> Tensor:
        """(n, D) -> (n, V) as the model itself computes them, differentiable."""
        if self.way == "whole":
            return states
        if self.way == "linear":
            head: Any = self.module.get_output_embeddings()
            return head(states)
        with _instead_of_backbone(self.module, states[None]):
            ids = states.new_zeros((1, len(states)), dtype=_long())
            return self._run(ids).logits[0]

    def plain(self) -> nn.Linear | None:
        """The layer, while it is frozen and its plain product is the logits: then the gradient has a short
        form. None for one that is adapted or quantised."""
        from torch import nn

        layer: Any = self.module.get_output_embeddings()
        free = type(layer) is nn.Linear and not any(p.requires_grad for p in layer.parameters())
        return layer if self.way == "linear" and free else None

    def _run(self, ids: Tensor, **more: Any) -> Any:
        return self.module(input_ids=ids, use_cache=False, **more)


def _long() -> Any:
    import torch

    return torch.long


def _backbone(module: nn.Module) -> Any:
    return module.base_model


class _Outcome:
    """What a backbone gives, with nothing in it but hidden states."""

    def __init__(self, states: Tensor) -> None:
        self.last_hidden_state = states

    def __getattr__(self, name: str) -> None:
        return None

    def __getitem__(self, place: int) -> Any:
        return self.last_hidden_state if place == 0 else None


@contextmanager
def _instead_of_backbone(module: nn.Module, states: Tensor) -> Iterator[None]:
    """The model's forward pass continues from these hidden states, (1, n, D)."""
    backbone = _backbone(module)
    backbone.forward = lambda *_, **__: _Outcome(states)
    try:
        yield
    finally:
        del backbone.forward


def find_head(module: Any) -> Head:
    """The leanest way whose logits are the model's own, tried on a few tokens.

    Hidden states many times their size are tried too, since a cap on the logits shows only there.
    """
    import torch

    config: Any = module.config
    words = config.get_text_config().vocab_size
    drawn = torch.Generator().manual_seed(0)
    device = next(module.parameters()).device
    ids = torch.randint(0, words, (1, PROBE), generator=drawn).to(device)
    places = torch.arange(PROBE, device=device)[None]
    whole, own, linear = (
        Head(module, "whole", words),
        Head(module, "own", words),
        Head(module, "linear", words),
    )
    if _backbone(module) is module or module.get_output_embeddings() is None:
        return whole
    with torch.no_grad():
        expected = whole.states(ids, places)[0]
        try:
            states = own.states(ids, places)[0]
            if not _same(own.logits(states), expected):
                return whole
        except (TypeError, AttributeError, ValueError, RuntimeError, IndexError):
            return whole
        for factor in (1, 50):
            if not _same(linear.logits(states * factor), own.logits(states * factor)):
                return own
    return linear


def _same(one: Tensor, other: Tensor) -> bool:
    import torch

    if one.shape != other.shape:
        return False
    bits = 1e-5 if one.dtype == torch.float32 else 2**-7
    difference = (one - other).float().abs().max()
    return bool(difference <= bits * other.float().abs().max())
