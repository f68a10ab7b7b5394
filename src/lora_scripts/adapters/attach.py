"""Putting a LoRA onto a loaded base, through PEFT, and finding its parameters again under stable names."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lora_scripts.core.seeds import derive_seed
from lora_scripts.families._base import Model

from .spec import AdapterSpec, match_targets

if TYPE_CHECKING:
    import torch
    from torch import nn

ADAPTER = "default"


@dataclass(frozen=True)
class Adapter:
    """What was attached.

    ``parameters``: stable name (``unet.<module>.lora_A.weight``) -> trainable float32 parameter, in the
    model's order. ``matched``: component -> adapted modules. ``layers``: ``<component>.<module>`` -> PEFT
    layer.
    """

    spec: AdapterSpec
    parameters: dict[str, nn.Parameter]
    matched: dict[str, list[str]]
    layers: dict[str, Any]

    def count(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters.values())

    def of(self, component: str) -> dict[str, nn.Parameter]:
        """The parameters of one component, for a learning rate of its own."""
        return {n: p for n, p in self.parameters.items() if n.startswith(component + ".")}

    def scale_of(self, name: str) -> float:
        """The factor in front of ``B @ A`` of the layer ``<component>.<module>``."""
        return float(self.layers[name].scaling[ADAPTER])


def fill(parameter: torch.Tensor, name: str, seed: int) -> None:
    """Kaiming-uniform with a = sqrt(5) for the first matrix, zeros for the second (Hu et al. 2021, as PEFT
    and sd-scripts start), each parameter from a generator of its own, so that no other one shifts its
    values."""
    import torch

    if ".lora_B." in name:
        parameter.zero_()
        return
    bound = 1.0 / math.sqrt(parameter[0].numel())
    generator = torch.Generator("cpu").manual_seed(derive_seed(seed, "adapter", name))
    drawn = torch.empty(parameter.shape, dtype=torch.float32).uniform_(-bound, bound, generator=generator)
    parameter.copy_(drawn)


def attach(model: Model, spec: AdapterSpec, *, train_text_encoder: bool = False, seed: int = 0) -> Adapter:
    """Injects the LoRA into the model's modules; the base stays frozen. The adapter starts without effect
    and with dropout off (see ``set_training``).

    Raises ProblemsError LS4020 to LS4023 where ``spec.targets`` does not fit.
    """
    import torch
    from peft import LoraConfig, inject_adapter_in_model

    matched = match_targets(
        model.family.sheet, model.description.modules, spec.targets, train_text_encoder=train_text_encoder
    )
    parameters: dict[str, nn.Parameter] = {}
    layers: dict[str, Any] = {}
    for component, names in matched.items():
        module = model.modules[component]
        config = LoraConfig(
            r=spec.rank,
            lora_alpha=spec.alpha,  # type: ignore[arg-type]
            lora_dropout=spec.dropout,
            target_modules="|".join(re.escape(name) for name in names),
            init_lora_weights=False,
        )
        with torch.random.fork_rng(devices=[]):
            inject_adapter_in_model(config, module, ADAPTER)
        module.eval()
        for name in names:
            layer = module.get_submodule(name)
            layers[f"{component}.{name}"] = layer
            for half in ("lora_A", "lora_B"):
                inner: Any = getattr(layer, half)[ADAPTER]
                inner.weight.data = inner.weight.data.to(torch.float32)
                parameters[f"{component}.{name}.{half}.weight"] = inner.weight
    with torch.no_grad():
        for name, parameter in parameters.items():
            fill(parameter, name, seed)
            parameter.requires_grad_(True)
    return Adapter(spec, parameters, matched, layers)


def detach(model: Model, adapter: Adapter) -> None:
    """Takes the LoRA off again; the base is what it was before ``attach``."""
    for name, layer in adapter.layers.items():
        component, _, path = name.partition(".")
        owner, _, leaf = path.rpartition(".")
        parent = model.modules[component].get_submodule(owner)
        if leaf.isdigit():
            parent[int(leaf)] = layer.base_layer  # type: ignore[operator]
        else:
            setattr(parent, leaf, layer.base_layer)
    for component in adapter.matched:
        if hasattr(model.modules[component], "peft_config"):
            delattr(model.modules[component], "peft_config")


@contextmanager
def scaled(adapter: Adapter, strength: float) -> Iterator[None]:
    """The adapter at ``strength`` times its effect, as a WebUI's ``<lora:NAME:strength>``; 0 is the bare
    base."""
    before = {name: layer.scaling[ADAPTER] for name, layer in adapter.layers.items()}
    try:
        for name, layer in adapter.layers.items():
            layer.scaling[ADAPTER] = before[name] * strength
        yield
    finally:
        for name, layer in adapter.layers.items():
            layer.scaling[ADAPTER] = before[name]


def disabled(adapter: Adapter) -> Any:
    """A context in which the model is the bare base."""
    return scaled(adapter, 0.0)


def set_training(model: Model, adapter: Adapter, on: bool) -> None:
    """Switches the adapter's dropout (and with it the recomputation of activations) on or off."""
    for component in adapter.matched:
        model.modules[component].train(on)


def effect_norms(adapter: Adapter) -> dict[str, float]:
    """Layer -> Frobenius norm of ``scale * B @ A``, without forming the product."""
    import torch

    norms = {}
    with torch.no_grad():
        for name in adapter.layers:
            first = adapter.parameters[f"{name}.lora_A.weight"].flatten(1).double()
            second = adapter.parameters[f"{name}.lora_B.weight"].flatten(1).double()
            product = (first @ first.T) * (second.T @ second)
            norms[name] = adapter.scale_of(name) * float(product.sum().clamp_min(0).sqrt())
    return norms
