"""A linear layer with a LoRA, with its own derivative: PEFT's numbers in less time and memory.

PEFT's layer builds the sum from single steps, and the autograd engine keeps what each of them needs: a cast
of the input, of both matrices, the input after dropout. Here the input and one narrow product are kept, sums
are added to in place, and each matrix is cast once. The layer object stays PEFT's: names, scaling and
switching off are its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any
from weakref import ref

from .narrow import computes_in

if TYPE_CHECKING:
    import torch
    from torch import Tensor

MADE_FROM = "lora_scripts_made_from"
"""Attribute of a tensor: its version, how to make it again, and from which tensors."""
FED_ALIKE = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Names of neighbouring layers that read the same tensor, in the order in which they do."""
FEW = 16
"""Rows for which a product takes no longer than to read its matrix."""
CLOSE = 2**20
"""Bytes of a matrix that stay in a processor's cache."""
STEPS = 1 << 16
"""Into how many steps the probability of dropout is rounded."""


def make_lean(layers: Mapping[str, Any]) -> int:
    """Switches those of ``layers``, by module name, that can compute leanly to it; returns how many did."""
    fitting = {name: layer for name, layer in layers.items() if fits(layer)}
    for layer in fitting.values():
        layer.__class__ = _layer_class()
    for parent in {name.rpartition(".")[0] for name in fitting}:
        for leaves in FED_ALIKE:
            together = [fitting[f"{parent}.{leaf}"] for leaf in leaves if f"{parent}.{leaf}" in fitting]
            if len(together) == len(leaves):
                group = Fellows(together)
                for layer in together:
                    vars(layer)["lora_scripts_fellows"] = group
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


def is_lean(layer: Any) -> bool:
    return type(layer) is _layer_class()


@cache
def _layer_class() -> type:
    from peft.tuners.lora import layer as peft_layers

    class LeanLinear(peft_layers.Linear):
        """PEFT's layer with another ``forward``; several adapters at once are left to PEFT's own."""

        def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
            part = None if args or kwargs else part_of(self)
            if part is None:
                return super().forward(x, *args, **kwargs)
            dropout = dropout_of(self)
            group = vars(self).get("lora_scripts_fellows")
            if group is not None and not dropout and (out := group.out_of(self, x)) is not None:
                return out
            return linear(x, part, dropout=dropout)[0]

    return LeanLinear


@dataclass(frozen=True)
class Part:
    """A linear layer with its LoRA: ``weight`` (out, in), ``first`` (r, in), ``second`` (out, r); ``start``
    holds A0 and B0 of the same shapes, or nothing. ``dtype``: what it computes in without autocast."""

    weight: Tensor
    bias: Tensor | None
    first: Tensor
    second: Tensor
    scale: float
    dtype: torch.dtype
    start: tuple[Tensor | None, Tensor | None] = (None, None)


def part_of(layer: Any) -> Part | None:
    """What a lean layer computes with; None where that is left to PEFT (several adapters, merged, off)."""
    active = [name for name in layer.active_adapters if name in layer.lora_A]
    if layer.disable_adapters or layer.merged or len(active) != 1:
        return None
    base, (name,) = layer.base_layer, active
    return Part(
        base.weight,
        base.bias,
        layer.lora_A[name].weight,
        layer.lora_B[name].weight,
        layer.scaling[name],
        computes_in(base),
        (getattr(layer, "lora_start_A", None), getattr(layer, "lora_start_B", None)),
    )


def dropout_of(layer: Any) -> float:
    names = layer.active_adapters if layer.training else ()
    return max((getattr(layer.lora_dropout[n], "p", 0.0) for n in names if n in layer.lora_A), default=0.0)


class Fellows:
    """Layers that are fed the same tensor one after another: the first one computes for all, the others take
    what lies ready. A layer that is fed something else computes alone."""

    def __init__(self, layers: Sequence[Any]) -> None:
        self.layers = [ref(layer) for layer in layers]
        self.fed: Any = None
        self.key: Any = None
        self.ready: dict[int, Tensor] = {}

    def out_of(self, layer: Any, x: Tensor) -> Tensor | None:
        import torch

        key = (x._version, torch.is_grad_enabled(), torch.is_autocast_enabled(x.device.type))
        if layer is not self.layers[0]():
            same = self.fed is not None and self.fed() is x and key == self.key
            return self.ready.pop(id(layer), None) if same else None
        self.ready.clear()
        layers = [found for one in self.layers if (found := one()) is not None]
        parts = [None if dropout_of(one) else part_of(one) for one in layers]
        plain = [part for part in parts if part is not None and part.start == (None, None)]
        if len(plain) < len(self.layers):
            return None
        first, *rest = linear(x, *plain)
        self.fed, self.key = ref(x), key
        self.ready = {id(one): out for one, out in zip(layers[1:], rest, strict=True)}
        return first


def linear(x: Tensor, *parts: Part, dropout: float = 0.0) -> tuple[Tensor, ...]:
    """Of each part ``x @ weight.T + bias + scale * (dropout(x) @ first.T @ second.T - x @ A0.T @ B0.T)``.

    ``x`` is (..., in). Several parts share passes over it; they have neither dropout nor a start.

    Computes in autocast's dtype, else in the parts'; ``weight`` and ``bias`` get no gradient, ``first`` and
    ``second`` get theirs in their own dtype, summed over tokens in float32.
    """
    import torch

    kind = x.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else parts[0].dtype
    recipe = _recipe(x) if x.dtype == dtype else (None, ())
    scales = tuple(part.scale for part in parts)
    tensors = [t for p in parts for t in (p.weight, p.bias, p.first, p.second)]
    found: tuple[Tensor, ...] = _function().apply(
        _cast(x, dtype), *recipe, scales, dropout, parts[0].start, *tensors
    )
    return found


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


def _base_product(rows: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """``rows @ weight.T + bias`` in the rows' dtype. For few rows, as when a text is written word by word,
    what a cast makes is read while it is in the processor's cache: it would take longer than the product."""
    import torch

    step = len(weight)
    if weight.dtype != rows.dtype and len(rows) <= FEW:
        step = max(1, CLOSE // (weight.shape[1] * rows.element_size()))
    for start in range(0, len(weight), step):
        at = slice(start, start + step)
        part = weight[at].to(rows.dtype).T
        if bias is None:
            torch.mm(rows, part, out=out[:, at])
        else:
            torch.addmm(bias[at].to(rows.dtype), rows, part, out=out[:, at])


@cache
def _function() -> Any:
    import torch

    class LeanFunction(torch.autograd.Function):
        @staticmethod
        def forward(
            ctx: Any,
            x: Tensor,
            way: Callable[..., Tensor] | None,
            sources: tuple[Tensor, ...],
            scales: tuple[float, ...],
            dropout: float,
            start: tuple[Tensor | None, Tensor | None],
            *tensors: Tensor,
        ) -> tuple[Tensor, ...]:
            rows, dtype = x.reshape(-1, x.shape[-1]), x.dtype
            weights, biases, firsts, seconds = (tensors[kind::4] for kind in range(4))
            with torch.autocast(x.device.type, enabled=False):
                a, bs = _joined(firsts).to(dtype), [second.to(dtype) for second in seconds]
                # drawn by the CPU's generator, which the loop seeds and checkpointing puts back
                ctx.seed = int(torch.randint(1 << 62, ())) if dropout else 0
                if dropout:
                    mask, factor = kept(rows, dropout, ctx.seed)
                    narrow = (mask.mul_(rows) @ a.T).mul_(factor)
                else:
                    narrow = rows @ a.T
                first0, second0 = start
                if first0 is not None and second0 is not None:
                    a0, bs = first0.to(dtype), [torch.cat([bs[0], -second0.to(dtype)], dim=1)]
                    narrow = torch.cat([narrow, rows @ a0.T], dim=1)
                    a = torch.cat([a, a0])
                outs = []
                pieces = narrow.split([b.shape[1] for b in bs], dim=1)
                for weight, bias, b, piece, scale in zip(weights, biases, bs, pieces, scales, strict=True):
                    # in its final shape from the start: autograd lets nobody write to a view made in here
                    out = rows.new_empty(*x.shape[:-1], len(weight))
                    flat = out.view(-1, len(weight))
                    _base_product(rows, weight, bias, flat)
                    flat.addmm_(piece, b.T, alpha=scale)
                    outs.append(out)
            ctx.way, ctx.scales, ctx.dropout, ctx.shape = way, scales, dropout, x.shape
            ctx.ranks = [first.shape[0] for first in firsts]
            ctx.dtypes = [(first.dtype, second.dtype) for first, second in zip(firsts, seconds, strict=True)]
            ctx.save_for_backward(a, narrow, *weights, *bs, *(sources if way else (rows,)))
            return tuple(outs)

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
            a, narrow, *others = ctx.saved_tensors
            count, ranks, dropout = len(grads), ctx.ranks, ctx.dropout
            weights, bs, sources = others[:count], others[count : 2 * count], others[2 * count :]
            grads = tuple(grad.reshape(-1, grad.shape[-1]) for grad in grads)
            made = ctx.way(*sources) if ctx.way else sources[0]
            rows = made.reshape(-1, made.shape[-1])
            learnt = sum(ranks)
            d_x = None
            d_parts: list[Any] = [None] * (4 * count)
            with torch.autocast(rows.device.type, enabled=False):
                inner = _joined(
                    [(grad @ b).mul_(scale) for grad, b, scale in zip(grads, bs, ctx.scales, strict=True)], 1
                )
                if dropout:
                    mask, factor = kept(rows, dropout, ctx.seed)
                    inner[:, :learnt] *= factor
                if ctx.needs_input_grad[0]:
                    d_x = grads[0] @ weights[0].to(rows.dtype)
                    for grad, weight in zip(grads[1:], weights[1:], strict=True):
                        d_x.addmm_(grad, weight.to(rows.dtype))
                    if dropout:
                        d_x.addcmul_(inner[:, :learnt] @ a[:learnt], mask)
                        d_x.addmm_(inner[:, learnt:], a[learnt:])
                    else:
                        d_x.addmm_(inner, a)
                    d_x = d_x.view(ctx.shape)
                fed = mask.mul_(rows) if dropout else rows
                d_firsts = (inner[:, :learnt].T @ fed).split(ranks)
                pieces = narrow[:, :learnt].split(ranks, dim=1)
                for index, (piece, grad) in enumerate(zip(pieces, grads, strict=True)):
                    first_dtype, second_dtype = ctx.dtypes[index]
                    # in this order the product is the faster one, and its transpose is free
                    turned = (piece.T @ grad).to(second_dtype).mul_(ctx.scales[index]).T
                    d_parts[4 * index + 2 : 4 * index + 4] = d_firsts[index].to(first_dtype), turned
            return d_x, *[None] * 5, *d_parts

    return LeanFunction


def _joined(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    import torch

    return torch.cat(list(tensors), dim=dim) if len(tensors) > 1 else tensors[0]
