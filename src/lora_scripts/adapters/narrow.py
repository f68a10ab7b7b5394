"""Frozen weights in the 16 bits that they came in, where a run computes in float32.

Most bases are published in bfloat16 or float16, and every such number is a float32 number too: to hold it as
one takes twice the bytes and adds nothing. A layer whose weights are all of them holds them as they came and
widens them for the moment of a product, which then has the same bits.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def hold_narrow(layers: Iterable[Any]) -> int:
    """Of PEFT layers that compute leanly, holds the float32 base weights so; returns how many it could."""
    from lora_scripts.adapters.lean import is_lean

    held = 0
    for layer in layers:
        base = layer.get_base_layer()
        if is_lean(layer) and (dtype := _fewer(base.weight)) is not None:
            base.__class__ = _layer_class()
            base.weight.data = base.weight.data.to(dtype)
            held += 1
    return held


def widen(layers: Iterable[Any]) -> None:
    """Takes it back."""
    from torch import nn

    for layer in layers:
        base = layer.get_base_layer()
        if type(base) is _layer_class():
            base.__class__ = nn.Linear
            base.weight.data = base.weight.data.float()


def computes_in(base: Any) -> torch.dtype:
    """The precision of a linear layer's product: its weights' own, or that which they are widened to."""
    import torch

    return torch.float32 if type(base) is _layer_class() else base.weight.dtype


def _fewer(weight: Tensor) -> torch.dtype | None:
    """The type of 16 bits that has every number of a float32 ``weight``."""
    import torch

    if weight.dtype != torch.float32:
        return None
    for dtype in (torch.bfloat16, torch.float16):
        # Most often one row shows that it is not.
        if all(torch.equal(part.to(dtype).float(), part) for part in (weight[:1], weight)):
            return dtype
    return None


@cache
def _layer_class() -> Any:
    from torch import nn
    from torch.nn import functional

    class NarrowLinear(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return functional.linear(x, self.weight.to(x.dtype), self.bias)

    return NarrowLinear
