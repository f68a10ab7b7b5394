"""Several saved adapters on one base: each switched on and off, or a weighted sum of them, without loading
the base again. For inference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

from lora_scripts.adapters import inject
from lora_scripts.adapters.attach import ADAPTER
from lora_scripts.adapters.start import row_lengths, weight_of
from lora_scripts.core.problems import Problem, ProblemsError
from lora_scripts.families._base import Model

if TYPE_CHECKING:
    from torch import Tensor, nn


class SavedLayer(Protocol):
    """``weight + scale * second @ first``, of a DoRA with rows of the lengths ``magnitude``. ``first`` is
    (r, in) and ``second`` (out, r); of E fused experts (r * E, in) and (out, r * E)."""

    @property
    def first(self) -> Tensor: ...
    @property
    def second(self) -> Tensor: ...
    @property
    def scale(self) -> float: ...
    @property
    def magnitude(self) -> Tensor | None: ...


class Saved(Protocol):
    """An adapter as PEFT saves it. ``layers``: module -> layer, with ``.base_layer`` for each wrapper inside;
    ``parameters``: the ends of the names of adapted parameters (``target_parameters``)."""

    @property
    def layers(self) -> Mapping[str, SavedLayer]: ...
    @property
    def parameters(self) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class Part:
    """What one adapter adds to one weight: ``(rows - 1) * (W @ x) + second @ first @ x``, the scale being in
    ``second``; ``rows`` (out,) of a DoRA only."""

    first: Tensor
    second: Tensor
    rows: Tensor | None = None


class Mixture:
    """The adapters on a base. At first none is active and the base is itself."""

    def __init__(self, model: Model) -> None:
        self.module = model.predictor
        self.fused = _fused(self.module)
        self.places: dict[str, Any] = {}
        self.parts: dict[str, dict[str, Part]] = {}
        self.strengths: dict[str, float] = {}

    @property
    def names(self) -> list[str]:
        return list(self.parts)

    def add(self, name: str, saved: Saved) -> None:
        """Puts a further adapter on, switched off; one of the same name is replaced.

        Raises ProblemsError LS4027, LS4028 where it is of another base; nothing has changed then.
        """
        found = dict(_located(name, self.module, self.fused, saved))
        _check(name, self.module, found)
        self.use({other: strength for other, strength in self.strengths.items() if other != name})
        for place in found:
            if place not in self.places:
                self.places[place] = _install(self.module, place)
        self.parts[name] = {place: _part(self.places[place], layer) for place, layer in found.items()}

    def use(self, strengths: Mapping[str, float]) -> None:
        """Makes the model ``W + sum of strength * delta``; what is not named is off, and with nothing on the
        model is bit for bit the base. A DoRA's delta is what it makes of the weight, less the weight."""
        self.strengths = {name: float(strength) for name, strength in strengths.items() if strength}
        for place, layer in self.places.items():
            active = [
                (strength, self.parts[name][place])
                for name, strength in self.strengths.items()
                if place in self.parts[name]
            ]
            layer.mix(active)

    def take_off(self) -> None:
        """Removes every adapter; the base is as it was loaded."""
        experts = [place for place, layer in self.places.items() if isinstance(layer, _Experts)]
        inject.eject(self.module, experts)
        for place, layer in self.places.items():
            if place not in experts:
                _put(self.module, place, layer.base_layer)
        self.places, self.parts, self.strengths = {}, {}, {}


def combine(model: Model, saved: Mapping[str, Saved]) -> Mixture:
    """Puts saved adapters onto a loaded language model, all switched off; see ``Mixture.use``."""
    mixture = Mixture(model)
    for name, adapter in saved.items():
        mixture.add(name, adapter)
    return mixture


def _fused(module: nn.Module) -> dict[str, list[str]]:
    """Module -> its fused parameters, in its own order. PEFT's layers change that order when they compute, so
    this is asked before any does."""
    found: dict[str, list[str]] = {}
    for name, weight in module.named_parameters():
        if weight.ndim == 3:
            found.setdefault(name.rpartition(".")[0], []).append(name)
    return found


def _located(
    name: str, module: nn.Module, fused: Mapping[str, list[str]], saved: Saved
) -> Iterator[tuple[str, SavedLayer]]:
    """The layers with the names of the modules or parameters that they adapt.

    PEFT wraps a module once for each of its adapted parameters, in the module's order, the first innermost.
    """
    linear = {n for n, part in module.named_modules() if hasattr(_bare(part), "out_features")}
    missing = []
    for path, layer in saved.layers.items():
        owner = path.replace(f".{inject.INNER}", "")
        adapted = [
            full
            for full in fused.get(owner, ())
            if any(full == end or full.endswith(f".{end}") for end in saved.parameters)
        ]
        depth = path.count(inject.INNER)
        if depth < len(adapted):
            yield adapted[len(adapted) - 1 - depth], layer
        elif path in linear:
            yield owner, layer
        else:
            missing.append(owner)
    if missing:
        params = {"name": name, "layer": missing[0], "count": len(missing)}
        raise ProblemsError(Problem("LS4027", params))


def _bare(module: Any) -> Any:
    while hasattr(module, inject.INNER):
        module = module.base_layer
    return module


def _shape(module: nn.Module, place: str) -> tuple[int, ...]:
    """The shape of the weight at ``place``; of a linear layer (out, in), however it is stored."""
    owner, _, leaf = place.rpartition(".")
    holder = _bare(module.get_submodule(owner))
    target = _bare(getattr(holder, leaf))
    if hasattr(target, "out_features"):
        return int(target.out_features), int(target.in_features)
    return tuple(getattr(target, "weight", target).shape)


def _check(name: str, module: nn.Module, found: Mapping[str, SavedLayer]) -> None:
    problems = []
    for place, layer in found.items():
        shape = _shape(module, place)
        wanted = (layer.second.shape[0], layer.first.shape[1])
        experts = shape[0] if len(shape) == 3 else 1
        fits = wanted == shape or (experts > 1 and wanted in (shape[1:], shape[:0:-1]))
        if not fits or layer.first.shape[0] % experts:
            params = {"name": name, "layer": place, "found": _text(shape[-2:]), "wanted": _text(wanted)}
            problems.append(Problem("LS4028", params))
    if problems:
        raise ProblemsError(problems[0])


def _text(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _install(module: nn.Module, place: str) -> Any:
    if len(_shape(module, place)) == 3:
        inject.inject(module, [place], ADAPTER, r=1, lora_alpha=1)
        return _Experts(inject.find(module, place)[1])
    layer = _layer_class()(module.get_submodule(place))
    _put(module, place, layer)
    return layer


def _put(module: nn.Module, place: str, layer: nn.Module) -> None:
    owner, _, leaf = place.rpartition(".")
    parent: Any = module.get_submodule(owner)
    if leaf.isdigit():
        parent[int(leaf)] = layer
    else:
        setattr(parent, leaf, layer)


def _part(layer: Any, saved: SavedLayer) -> Part:
    """On the layer's device, float32. ``rows`` is ``m / |W + scale * B @ A|`` (Liu et al. 2024, eq. 5)."""
    first, second = (half.detach().float().to(layer.device) for half in (saved.first, saved.second))
    second = saved.scale * second
    if saved.magnitude is None:
        return Part(first, second)
    rows = saved.magnitude.flatten().to(layer.device) / row_lengths(weight_of(layer) + second @ first)
    return Part(first, rows[:, None] * second, rows)


@cache
def _layer_class() -> Any:
    import torch
    from torch import nn

    class MixedLinear(nn.Module):
        """A linear layer, quantised or not, and the sum of what the active adapters add."""

        def __init__(self, base_layer: nn.Module) -> None:
            super().__init__()
            self.base_layer = base_layer
            self.first: Tensor | None = None
            self.second: Tensor | None = None
            self.rows: Tensor | None = None

        def get_base_layer(self) -> Any:
            return self.base_layer

        @property
        def device(self) -> torch.device:
            return next(self.base_layer.parameters()).device

        def mix(self, active: list[tuple[float, Part]]) -> None:
            self.first = self.second = self.rows = None
            if active:
                self.first = torch.cat([part.first for _, part in active])
                self.second = torch.cat([strength * part.second for strength, part in active], dim=1)
            for strength, part in active:
                if part.rows is not None:
                    moved = strength * (part.rows - 1)
                    self.rows = moved if self.rows is None else self.rows + moved

        def forward(self, x: Tensor) -> Any:
            out = self.base_layer(x)
            if self.first is None or self.second is None:
                return out
            with torch.autocast(x.device.type, enabled=False):
                total = out.float() + x.float() @ self.first.T @ self.second.T
                if self.rows is not None:
                    bias = getattr(self.base_layer, "bias", None)
                    bare = out.float() if bias is None else out.float() - bias.float()
                    total = total + self.rows * bare
                return total.to(out.dtype)

    return MixedLinear


class _Experts:
    """PEFT's layer around a fused parameter, as one LoRA whose rank is the sum of the active ones'."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        self.device = layer.get_param().device
        self.mix([])

    def mix(self, active: list[tuple[float, Part]]) -> None:
        import torch

        layer, count = self.layer, self.layer.num_experts
        layer._disable_adapters = not active
        if not active:
            return
        # PEFT keeps (expert, rank) rows in the first matrix, (rank, expert) columns in the second
        firsts = [part.first.reshape(count, -1, part.first.shape[1]) for _, part in active]
        seconds = [w * part.second.reshape(part.second.shape[0], -1, count) for w, part in active]
        for half, value in (
            (layer.lora_A, torch.cat(firsts, dim=1).flatten(0, 1)),
            (layer.lora_B, torch.cat(seconds, dim=1).flatten(1, 2)),
        ):
            half[ADAPTER].weight = torch.nn.Parameter(value, requires_grad=False)
        layer.scaling[ADAPTER] = 1.0
