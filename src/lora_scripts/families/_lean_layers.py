"""The same layers with less kept for the backward pass and fewer passes over memory.

A layer of Transformers keeps its class; only what its forward pass calls is replaced, and only where the
replacement gives the layer's own numbers on a try.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from lora_scripts.adapters.lean import made_from

from . import _lean_rotary

if TYPE_CHECKING:
    from torch import Tensor, nn


def make_lean(module: nn.Module) -> int:
    """Replaces what is known in a frozen model, and returns how many layers it was."""
    found = 0
    known = (
        (_is_norm, _norm_forward),
        (_is_gated, _gated_forward),
        (_lean_rotary.calls_it, _lean_rotary.forward_of),
    )
    for layer in module.modules():
        for fits, forward in known:
            if fits(layer) and (chosen := forward(layer)) is not None:
                layer.forward = partial(chosen, layer)
                found += 1
    return found


def _is_norm(layer: Any) -> bool:
    return type(layer).__name__.endswith("RMSNorm") and getattr(layer, "weight", None) is not None


def _is_gated(layer: Any) -> bool:
    return all(hasattr(layer, name) for name in ("up_proj", "down_proj", "act_fn")) and hasattr(
        layer, "gate_proj"
    )


def _norm_forward(layer: Any) -> Callable[..., Tensor] | None:
    """LLaMA scales after rounding to the model's precision, Gemma before, with one added to the weight."""
    epsilon = getattr(layer, "variance_epsilon", getattr(layer, "eps", None))
    if not isinstance(epsilon, float):
        return None

    def after(self: Any, hidden_states: Tensor) -> Tensor:
        return _noted_norm(hidden_states, self.weight, epsilon, False)

    def before(self: Any, x: Tensor) -> Tensor:
        return _noted_norm(x, self.weight, epsilon, True)

    return next((way for way in (after, before) if _gives_the_same(layer, way, len(layer.weight))), None)


def _gated_forward(layer: Any) -> Callable[..., Tensor] | None:
    from torch.nn import SiLU

    if type(layer.act_fn).__name__ not in ("SiLU", "SiLUActivation") and not isinstance(layer.act_fn, SiLU):
        return None

    def forward(self: Any, x: Tensor) -> Tensor:
        gate, up = self.gate_proj(x), self.up_proj(x)
        return self.down_proj(made_from(_gate()(gate, up), _gated_again, gate, up))

    return forward if _gives_the_same(layer, forward, getattr(layer.up_proj, "in_features", 0)) else None


def _gives_the_same(layer: Any, way: Callable[..., Tensor], width: int) -> bool:
    """Tried on one token; a difference beyond the last bits means that it is another formula."""
    import torch

    parameter = next(layer.parameters(), SimpleNamespace(device="cpu", dtype=torch.float32))
    dtype = parameter.dtype if parameter.dtype.is_floating_point else torch.float32
    drawn = torch.Generator("cpu").manual_seed(0)
    tried = torch.randn((1, 3, width), generator=drawn).to(parameter.device, dtype) * 3
    try:
        with torch.no_grad():
            own, lean = layer(tried), way(layer, tried)
    except (RuntimeError, TypeError, ValueError, AttributeError):
        return False
    if not isinstance(own, torch.Tensor) or own.shape != lean.shape or own.dtype != lean.dtype:
        return False
    bits = 1e-5 if dtype == torch.float32 else 2**-7
    return bool((own - lean).float().abs().max() <= bits * own.float().abs().max())


def _noted_norm(x: Tensor, weight: Tensor, epsilon: float, gemma: bool) -> Tensor:
    """The norm of ``x``, which the layers that are fed it need not keep: ``x`` is kept anyway."""
    out, scale = _rms_norm()(x, weight, epsilon, gemma)
    return made_from(out, partial(_normed, gemma), x, weight, scale)


def _normed(gemma: bool, x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    # A product of mixed precision reads x as it is: no float32 copy comes first.
    normal = x * scale
    if gemma:
        return normal.mul_(1.0 + weight.float()).to(x.dtype)
    return normal.to(x.dtype).mul_(weight)


@lru_cache
def _rms_norm() -> Any:
    import torch

    class RmsNorm(torch.autograd.Function):
        """x / rms(x) * w, and 1 / rms(x) beside it. Keeps x as it came and that one number a token; the
        library's keeps a float32 copy."""

        @staticmethod
        def forward(
            ctx: Any, x: Tensor, weight: Tensor, epsilon: float, gemma: bool
        ) -> tuple[Tensor, Tensor]:
            length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
            scale = torch.rsqrt(length.square_().div_(x.shape[-1]).add_(epsilon))
            ctx.save_for_backward(x, weight, scale)
            ctx.gemma = gemma
            ctx.mark_non_differentiable(scale)
            return _normed(gemma, x, weight, scale), scale

        @staticmethod
        def backward(ctx: Any, grad: Tensor, _: Tensor) -> Any:
            x, weight, scale = ctx.saved_tensors
            grad = grad * ((1.0 + weight.float()) if ctx.gemma else weight)
            normal = x * scale
            along = (grad * normal).mean(dim=-1, keepdim=True)
            down = torch.sub(grad, normal.mul_(along)).mul_(scale)
            return down.to(x.dtype), None, None, None

    return RmsNorm.apply


def _gated(gate: Tensor, up: Tensor) -> Tensor:
    from torch.nn.functional import silu

    return silu(gate).mul_(up)


_LEFT: list[Tensor] = []
"""A gate and its silu: what the product leaves when it is made again, for the gate's own backward pass, which
comes next."""


def _gated_again(gate: Tensor, up: Tensor) -> Tensor:
    from torch.nn.functional import silu

    _LEFT[:] = gate, silu(gate)
    return _LEFT[1] * up


def _silu(gate: Tensor) -> Tensor:
    from torch.nn.functional import silu

    left = tuple(_LEFT)
    _LEFT.clear()
    return left[1] if left and left[0].data_ptr() == gate.data_ptr() else silu(gate)


@lru_cache
def _gate() -> Any:
    import torch

    class Gate(torch.autograd.Function):
        """silu(gate) * up. silu(gate) is computed again rather than kept."""

        @staticmethod
        def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
            ctx.save_for_backward(gate, up)
            return _gated(gate, up)

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Any:
            gate, up = ctx.saved_tensors
            d_gate = torch.ops.aten.silu_backward(grad * up, gate)
            return d_gate, _silu(gate).mul_(grad)

    return Gate.apply
