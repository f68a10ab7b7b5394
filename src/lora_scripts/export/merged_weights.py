"""A base's weights with adapters in them, made one at a time: from files where that is possible, else from a
loaded model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_scripts.core.problems import Location, Problem, ProblemsError
from lora_scripts.families._source import Source

from .gguf_model import Weights
from .peft_layers import Layer, PeftFolder, delta, merged

if TYPE_CHECKING:
    from torch import Tensor, nn

HEAD = "lm_head.weight"


@dataclass(frozen=True)
class Worn:
    """An adapter and how strongly it acts."""

    adapter: PeftFolder
    strength: float = 1.0


class FileWeights:
    """The tensors of a Transformers folder, read when asked for. ``files``: name -> its file."""

    def __init__(self, source: Source) -> None:
        heads = source.headers.values()
        self.files: Mapping[str, Path] = {name: head.path for head in heads for name in head.shapes}
        self._shapes = {name: shape for head in heads for name, shape in head.shapes.items()}
        self.names: Sequence[str] = tuple(self._shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def get(self, name: str) -> Tensor:
        from safetensors import safe_open

        with safe_open(str(self.files[name]), framework="pt") as handle:
            found: Tensor = handle.get_tensor(name)
        return found


class ModuleWeights:
    """The parameters and buffers of a loaded model under its own names, each shared one once."""

    def __init__(self, module: nn.Module) -> None:
        self.tensors: dict[str, Tensor] = {}
        seen: set[tuple[int, tuple[int, ...]]] = set()
        for name, tensor in module.state_dict().items():
            mark = (tensor.data_ptr(), tuple(tensor.shape))
            if mark not in seen or not tensor.numel():
                self.tensors[name] = tensor
                seen.add(mark)
        self.names: Sequence[str] = tuple(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.tensors[name].shape)

    def get(self, name: str) -> Tensor:
        return self.tensors[name]


def weight_of(layer: Layer, names: Sequence[str], adapter: PeftFolder) -> str | None:
    """The name of the weight that ``layer`` changes: its module's, else the parameter among those that the
    adapter names, counted from the outermost wrapper."""
    if (plain := f"{layer.module}.weight") in names and not layer.depth:
        return plain
    mine = [name for name in names if name.rpartition(".")[0] == layer.module]
    taken = [n for n in mine if any(n == t or n.endswith(f".{t}") for t in adapter.parameters)]
    return taken[-1 - layer.depth] if layer.depth < len(taken) else None


def _fits(layer: Layer, shape: tuple[int, ...]) -> bool:
    plain = (layer.second.shape[0], layer.first.shape[1])
    return shape == plain or (len(shape) == 3 and set(shape[-2:]) == set(plain))


@dataclass
class MergedWeights:
    """``weights`` with all of ``worn``: ``W + sum(strength * dW)`` in float32 (a DoRA's dW is what it makes
    of W, less W). ``transposed``: weights of fused experts that lie as (E, in, out).

    An output layer that shares its weight with the input words gets one of its own where it is adapted:
    ``untied``.
    """

    weights: Weights
    worn: Sequence[Worn]
    tied: bool = False
    transposed: Mapping[str, bool] = field(default_factory=dict)
    plan: dict[str, list[tuple[Layer, float]]] = field(init=False, default_factory=dict)
    untied: str | None = field(init=False, default=None)
    missing: tuple[str, PeftFolder] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        known: list[str] = list(self.weights.names)
        for worn in self.worn:
            for layer in worn.adapter.layers.values():
                name = weight_of(layer, known, worn.adapter)
                if name is None and self.tied and f"{layer.module}.weight" == HEAD:
                    self.untied = next((n for n in known if n.endswith("embed_tokens.weight")), None)
                    name = HEAD if self.untied else None
                if name is None or not _fits(layer, self.shape(name)):
                    self.missing = self.missing or (layer.module, worn.adapter)
                    continue
                self.plan.setdefault(name, []).append((layer, worn.strength))

    @property
    def names(self) -> Sequence[str]:
        extra = [HEAD] if self.untied and HEAD not in self.weights.names else []
        return [*self.weights.names, *extra]

    def shape(self, name: str) -> tuple[int, ...]:
        return self.weights.shape(self._source_of(name))

    def _source_of(self, name: str) -> str:
        return self.untied if name == HEAD and self.untied else name

    def get(self, name: str) -> Tensor:
        """The weight as the base has it where no adapter touches it, else merged, in float32."""
        weight = self.weights.get(self._source_of(name))
        layers = self.plan.get(name)
        if not layers:
            return weight
        full = weight.float()
        if len(layers) == 1:
            layer, strength = layers[0]
            if weight.ndim == 2:
                return merged(full, layer, strength)
            return full + strength * delta(layer, full, self.transposed.get(name))
        total = full.clone()
        for layer, strength in layers:
            if weight.ndim == 2 and layer.magnitude is not None:
                total += merged(full, layer) - full
            else:
                total += strength * delta(layer, full, self.transposed.get(name))
        return total

    def effect(self, name: str) -> Tensor | None:
        """What the adapters change in the weight, in float32; None where they do not touch it."""
        if name not in self.plan:
            return None
        return self.get(name) - self.weights.get(self._source_of(name)).float()

    def check(self, base: str) -> None:
        """ProblemsError LS4306 where an adapter changes what the base does not have."""
        if self.missing:
            layer, adapter = self.missing
            params = {"path": str(adapter.path), "layer": layer, "base": adapter.base or base}
            raise ProblemsError(Problem("LS4306", params, Location(str(adapter.path))))


def transposed_experts(module: Any) -> dict[str, bool]:
    """Name of each three-dimensional parameter -> whether it lies as (E, in, out)."""
    return {
        f"{owner}.{leaf}": bool(getattr(part, "is_transposed", False))
        for owner, part in module.named_modules()
        for leaf, parameter in part.named_parameters(recurse=False)
        if parameter.ndim == 3
    }
