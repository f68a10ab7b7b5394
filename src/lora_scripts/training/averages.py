"""Weights that are better than the ones being trained, lent to whoever measures, shows or exports.

Schedule-free's averages and EMA's are computed into a copy; the live parameters are never swapped in place,
for switching back and forth is not exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter

Values = dict[str, "Tensor"]


class MovingAverage:
    """EMA of the adapter: after each update ``average += (1 - d) x (weights - average)``, where d grows to
    ``decay`` as ``(1 + n) / (10 + n)`` over the first updates (as in Diffusers' ``EMAModel``)."""

    def __init__(self, parameters: Mapping[str, Parameter], decay: float) -> None:
        self.parameters = parameters
        self.decay = decay
        self.values: Values = {name: p.detach().clone() for name, p in parameters.items()}

    def update(self, updates: int) -> None:
        """Called after the ``updates``-th optimizer step, counted from 1."""
        import torch

        share = 1.0 - min(self.decay, (1 + updates) / (10 + updates))
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                self.values[name].lerp_(parameter.detach(), share)

    def evaluation(self) -> Values:
        return self.values


def schedule_free_evaluation(optimizer: Any, parameters: Mapping[str, Parameter]) -> Values:
    """Schedule-free's averaged weights x from the trained y and its state z: y + (1 - 1/beta1) x (z - y)
    (Defazio et al. 2024)."""
    beta = {id(p): group["betas"][0] for group in optimizer.param_groups for p in group["params"]}
    found = {}
    for name, parameter in parameters.items():
        state = optimizer.state.get(parameter, {})
        live = parameter.detach()
        found[name] = live.lerp(state["z"], 1 - 1 / beta[id(parameter)]) if "z" in state else live.clone()
    return found


class Lender:
    """Lends evaluation weights; without any, the live ones stay where they are."""

    def __init__(self, parameters: Mapping[str, Parameter], values: Callable[[], Values] | None) -> None:
        self.parameters = parameters
        self.values = values

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Within it, every parameter shows its evaluation weights; the trained ones wait untouched."""
        if self.values is None:
            yield
            return
        live = {name: parameter.data for name, parameter in self.parameters.items()}
        try:
            for name, value in self.values().items():
                self.parameters[name].data = value
            yield
        finally:
            for name, value in live.items():
                self.parameters[name].data = value
