"""A linear layer with a LoRA, with its own derivative: PEFT's numbers in less time and memory.

PEFT's layer builds the sum from single steps, and the autograd engine keeps what each of them needs: a cast
of the input, of both matrices, the input after dropout. Here the input and one narrow product are kept, sums
are added to in place, and each matrix is cast once. The layer object stays PEFT's: names, scaling and
switching off are its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import TYPE_CHECKING, Any
from weakref import ref

if TYPE_CHECKING:
    import torch
    from torch import Tensor

MADE_FROM = "lora_scripts_made_from"
"""Attribute of a tensor: its version, how to make it again, and from which tensors."""
STEPS = 1 << 16
"""Into how many steps the probability of dropout is rounded."""


def make_lean(layers: Iterable[Any]) -> int:
    """Switches those of ``layers`` that can compute leanly to it; returns how many did."""
    fitting = [layer for layer in layers if fits(layer)]
    for layer in fitting:
        layer.__class__ = _layer_class()
    return len(fitting)


def fits(layer: Any) -> bool:
    """Whether a PEFT layer is a plain LoRA on a plain linear layer: nothing quantised, no variant such as
    DoRA, no matrix with a bias, and a base layer that nobody has taught another way to compute."""
    from peft.tuners.lora import layer as peft_layers
    from torch import nn

    if type(layer) is not peft_layers.Linear:
        return False
    base = layer.get_base_layer()
    plain = type(base) is nn.Linear and "forward" not in vars(base) and not layer.fan_in_fan_out
    return plain and not layer.lora_variant and not any(layer.lora_bias.values())


@cache
def _layer_class() -> type:
    from peft.tuners.lora import layer as peft_layers

    class LeanLinear(peft_layers.Linear):
        """PEFT's layer with another ``forward``; several adapters at once are left to PEFT's own."""

        def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
            active = [name for name in self.active_adapters if name in self.lora_A]
            if self.disable_adapters or self.merged or len(active) != 1 or args or kwargs:
                return super().forward(x, *args, **kwargs)
            base: Any = self.base_layer
            first: Any = self.lora_A[active[0]]
            second: Any = self.lora_B[active[0]]
            dropout = getattr(self.lora_dropout[active[0]], "p", 0.0) if self.training else 0.0
            return linear(
                x,
                base.weight,
                base.bias,
                first.weight,
                second.weight,
                scale=self.scaling[active[0]],
                start=(getattr(self, "lora_start_A", None), getattr(self, "lora_start_B", None)),
                dropout=dropout,
            )

    return LeanLinear


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    first: Tensor,
    second: Tensor,
    *,
    scale: float,
    start: tuple[Tensor | None, Tensor | None] = (None, None),
    dropout: float = 0.0,
) -> Tensor:
    """``x @ weight.T + bias + scale * (dropout(x) @ first.T @ second.T - x @ A0.T @ B0.T)``, ``x`` (..., in).

    ``first`` (r, in) and ``second`` (out, r) are trained; ``start`` holds A0 and B0 of the same shapes or
    nothing. Computes in autocast's dtype, else in the weight's; ``weight`` and ``bias`` get no gradient,
    ``first`` and ``second`` get theirs in their own dtype, summed over tokens in float32.
    """
    import torch

    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
    recipe = _recipe(x) if x.dtype == dtype else (None, ())
    result: Tensor = _function().apply(
        _cast(x, dtype), weight, bias, first, second, *start, scale, dropout, *recipe
    )
    return result


def made_from(x: Tensor, way: Callable[..., Tensor], *sources: Tensor) -> Tensor:
    """Notes on ``x`` that ``way(*sources)`` makes it again, bit for bit, and returns it. A lean layer that it
    is fed to keeps the sources in its stead: worth it where something else keeps them anyway."""
    setattr(x, MADE_FROM, (x._version, way, tuple(source.detach() for source in sources)))
    return x


def _recipe(x: Tensor) -> tuple[Callable[..., Tensor] | None, tuple[Tensor, ...]]:
    """How to make ``x`` again and from what; one that was written to since is not what it was made as."""
    version, way, sources = getattr(x, MADE_FROM, (None, None, ()))
    return (way, sources) if way is not None and version == x._version else (None, ())


_LAST_CAST: dict[str, Any] = {}


def _cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """``x`` in ``dtype``; layers that are fed the same tensor one after another share one cast of it."""
    import torch

    if x.dtype == dtype:
        return x
    key = (x._version, dtype, torch.is_grad_enabled())
    if _LAST_CAST and _LAST_CAST["of"]() is x and _LAST_CAST["key"] == key:
        shared: Tensor | None = _LAST_CAST["cast"]()
        if shared is not None:
            return shared
    cast = x.to(dtype)
    _LAST_CAST.update({"of": ref(x), "cast": ref(cast), "key": key})
    return cast


def kept(like: Tensor, dropout: float, seed: int) -> tuple[Tensor, float]:
    """Which elements dropout keeps, ones and zeros in the shape and dtype of ``like``, and the factor that
    makes up for the others: a function of ``seed``. Four elements for each 64-bit draw, since a draw for each
    would cost more than the products that it is for."""
    import torch

    generator = torch.Generator(like.device).manual_seed(seed)
    draws = torch.empty((like.numel() + 3) // 4, dtype=torch.int64, device=like.device)
    draws.random_(-(1 << 63), None, generator=generator)
    below = round(dropout * STEPS)
    ones = torch.empty(like.shape, dtype=like.dtype, device=like.device)
    lanes = draws.view(torch.int16)[: like.numel()].view(like.shape)
    torch.ge(lanes, below - STEPS // 2, out=ones)
    return ones, STEPS / (STEPS - below)


@cache
def _function() -> Any:
    import torch

    class LeanFunction(torch.autograd.Function):
        @staticmethod
        def forward(
            ctx: Any,
            x: Tensor,
            weight: Tensor,
            bias: Tensor | None,
            first: Tensor,
            second: Tensor,
            first0: Tensor | None,
            second0: Tensor | None,
            scale: float,
            dropout: float,
            way: Callable[..., Tensor] | None,
            sources: tuple[Tensor, ...],
        ) -> Tensor:
            rows, dtype = x.reshape(-1, x.shape[-1]), x.dtype
            with torch.autocast(x.device.type, enabled=False):
                base = weight.to(dtype).T
                out = rows @ base if bias is None else torch.addmm(bias.to(dtype), rows, base)
                a, b = first.to(dtype), second.to(dtype)
                # drawn by the CPU's generator, which the loop seeds and checkpointing puts back
                ctx.seed = int(torch.randint(1 << 62, ())) if dropout else 0
                if dropout:
                    mask, factor = kept(rows, dropout, ctx.seed)
                    narrow = (mask.mul_(rows) @ a.T).mul_(factor)
                else:
                    narrow = rows @ a.T
                if first0 is not None and second0 is not None:
                    a0, b = first0.to(dtype), torch.cat([b, -second0.to(dtype)], dim=1)
                    narrow = torch.cat([narrow, rows @ a0.T], dim=1)
                    a = torch.cat([a, a0])
                out.addmm_(narrow, b.T, alpha=scale)
            ctx.way = way
            ctx.save_for_backward(narrow, weight, a, b, *(sources if way else (rows,)))
            ctx.scale, ctx.dropout, ctx.rank = scale, dropout, first.shape[0]
            ctx.shape, ctx.dtypes = x.shape, (first.dtype, second.dtype)
            return out.view(*x.shape[:-1], out.shape[-1])

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
            narrow, weight, a, b, *sources = ctx.saved_tensors
            rank, dropout = ctx.rank, ctx.dropout
            grad = grad.reshape(-1, grad.shape[-1])
            made = ctx.way(*sources) if ctx.way else sources[0]
            rows = made.reshape(-1, made.shape[-1])
            d_x = d_first = d_second = None
            with torch.autocast(grad.device.type, enabled=False):
                inner = (grad @ b).mul_(ctx.scale)
                if dropout:
                    mask, factor = kept(rows, dropout, ctx.seed)
                    inner[:, :rank] *= factor
                if ctx.needs_input_grad[0]:
                    d_x = grad @ weight.to(grad.dtype)
                    if dropout:
                        d_x.addcmul_(inner[:, :rank] @ a[:rank], mask)
                        d_x.addmm_(inner[:, rank:], a[rank:])
                    else:
                        d_x.addmm_(inner, a)
                    d_x = d_x.view(ctx.shape)
                if ctx.needs_input_grad[3]:
                    fed = mask.mul_(rows) if dropout else rows
                    d_first = (inner[:, :rank].T @ fed).to(ctx.dtypes[0])
                if ctx.needs_input_grad[4]:
                    # in this order the product is the faster one, and its transpose is free
                    turned = narrow[:, :rank].T @ grad
                    d_second = turned.to(ctx.dtypes[1]).mul_(ctx.scale).T
            return d_x, None, None, d_first, d_second, *[None] * 6

    return LeanFunction
