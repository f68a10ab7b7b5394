"""Putting a LoRA onto a loaded base, through PEFT, and finding its parameters again under stable names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lora_scripts.adapters import inject
from lora_scripts.adapters.narrow import hold_narrow, widen
from lora_scripts.adapters.spec import AdapterSpec, match_targets
from lora_scripts.adapters.start import fill, pissa, row_lengths, weight_of
from lora_scripts.core.problems import Problem, ProblemsError
from lora_scripts.families._base import Model

if TYPE_CHECKING:
    from torch import nn

ADAPTER = "default"


@dataclass(frozen=True)
class Adapter:
    """What was attached.

    ``parameters``: stable name (``unet.<module>.lora_A.weight``) -> trainable float32 parameter, in the
    model's order. ``matched``: component -> adapted modules, and parameters such as fused experts.
    ``layers``: ``<component>.<module>`` -> PEFT layer. ``paths``: the same name -> where its matrices lie,
    ``<path>.lora_A.weight`` being the parameter's name: another place only where a parameter is adapted.
    """

    spec: AdapterSpec
    parameters: dict[str, nn.Parameter]
    matched: dict[str, list[str]]
    layers: dict[str, Any]
    paths: dict[str, str] = field(default_factory=dict)

    def count(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters.values())

    def of(self, component: str) -> dict[str, nn.Parameter]:
        """The parameters of one component, for a learning rate of its own."""
        return {n: p for n, p in self.parameters.items() if n.startswith(component + ".")}

    def scale_of(self, name: str) -> float:
        """The factor in front of ``B @ A`` of the layer ``<component>.<module>``."""
        return float(self.layers[name].scaling[ADAPTER])


def check(spec: AdapterSpec, model: Model, matched: dict[str, list[str]]) -> None:
    """Raises ProblemsError: LS4024 PiSSA on a quantised base, LS4025 DoRA or PiSSA on a layer for which there
    is no such thing, LS4026 both together."""
    from torch import nn

    problems = []
    if spec.dora and spec.init == "pissa":
        problems.append(Problem("LS4026"))
    for component, names in matched.items():
        module = model.modules[component]
        experts = set(inject.experts_in(module, names))
        linear = {n: module.get_submodule(n) for n in names if n not in experts}
        if spec.init == "pissa":
            if any(type(part).__name__ in inject.QUANTISED for part in linear.values()):
                problems.append(Problem("LS4024"))
            odd = [n for n in names if n in experts or not isinstance(linear[n], nn.Linear)]
            setting = "init_lora_weights: pissa"
        else:
            odd = [name for name in names if name in experts] if spec.dora else []
            setting = "use_dora: true"
        if odd:
            params = {"setting": setting, "layer": odd[0], "count": len(odd)}
            problems.append(Problem("LS4025", params))
    if problems:
        raise ProblemsError(problems)


def attach(
    model: Model, spec: AdapterSpec, *, train_text_encoder: bool = False, seed: int = 0, lean: bool = False
) -> Adapter:
    """Injects the LoRA into the model's modules; the base stays frozen and bit for bit what it was. The
    adapter starts without effect and with dropout off (see ``set_training``).

    ``lean``: linear layers compute through ``adapters.lean``, faster and in less memory than PEFT's own, and
    hold a base of 16-bit numbers in 16 bits (``adapters.narrow``).

    Raises ProblemsError LS4020 to LS4026 where ``spec`` does not fit the base.
    """
    import torch

    matched = match_targets(
        model.family.sheet,
        model.description.modules,
        spec.targets,
        train_text_encoder=train_text_encoder,
        convolutions=spec.conv_rank is not None,
    )
    check(spec, model, matched)
    adapter = Adapter(spec, {}, matched, {})
    for component, names in matched.items():
        module = model.modules[component]
        inject.keep_weights(module)
        inject.inject(
            module,
            names,
            ADAPTER,
            r=spec.rank,
            lora_alpha=spec.alpha,
            lora_dropout=spec.dropout,
            use_rslora=spec.rslora,
            use_dora=spec.dora,
            **_patterns(
                spec, component, {name: model.description.modules[component][name] for name in names}
            ),
        )
        module.eval()
        for name in names:
            path, layer = inject.find(module, name)
            adapter.layers[f"{component}.{name}"] = layer
            adapter.paths[f"{component}.{name}"] = f"{component}.{path}"
            for half in ("lora_A", "lora_B"):
                inner: Any = getattr(layer, half)[ADAPTER]
                inner.weight.data = inner.weight.data.to(torch.float32)
                adapter.parameters[f"{component}.{path}.{half}.weight"] = inner.weight
            if spec.dora:
                magnitude = layer.lora_magnitude_vector[ADAPTER]
                adapter.parameters[f"{component}.{path}.lora_magnitude_vector"] = magnitude.weight
    _start(adapter, seed)
    for parameter in adapter.parameters.values():
        parameter.requires_grad_(True)
    if lean or spec.init == "pissa":
        from lora_scripts.adapters.lean import make_lean

        make_lean(adapter.layers)
    if lean:
        hold_narrow(adapter.layers.values())
    return adapter


def _patterns(
    spec: AdapterSpec, component: str, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, dict[str, Any]]:
    """PEFT's settings for the layers whose rank or alpha is not the usual one; nothing without such."""
    if spec.conv_rank is None and not spec.rank_pattern:
        return {}
    layers = {name: spec.layer(component, name, shape) for name, shape in shapes.items()}
    names = {name: rf"held\.{re.escape(name)}" for name in layers}
    return {
        "rank_pattern": {names[n]: rank for n, (rank, _) in layers.items() if rank != spec.rank},
        "alpha_pattern": {names[n]: alpha for n, (_, alpha) in layers.items() if alpha != spec.alpha},
    }


def _start(adapter: Adapter, seed: int) -> None:
    import torch

    with torch.no_grad():
        for name, layer in adapter.layers.items():
            path = adapter.paths[name]
            first, second = (adapter.parameters[f"{path}.lora_{half}.weight"] for half in "AB")
            if adapter.spec.init == "pissa":
                initial = pissa(weight_of(layer), adapter.spec.rank, adapter.scale_of(name), name)
                for key, parameter, value in zip("AB", (first, second), initial, strict=True):
                    parameter.copy_(value)
                    layer.register_buffer(f"lora_start_{key}", parameter.detach().clone(), persistent=False)
            else:
                fill(first, f"{name}.lora_A.weight", seed)
                fill(second, f"{name}.lora_B.weight", seed)
            if adapter.spec.dora:
                magnitude = adapter.parameters[f"{path}.lora_magnitude_vector"]
                magnitude.data = row_lengths(weight_of(layer)).to(magnitude.device)


def detach(model: Model, adapter: Adapter) -> None:
    """Takes the LoRA off again; the base is what it was before ``attach``."""
    widen(adapter.layers.values())
    for component, names in adapter.matched.items():
        inject.eject(model.modules[component], names)


@contextmanager
def scaled(adapter: Adapter, strength: float) -> Iterator[None]:
    """The adapter at ``strength`` times its effect, as a WebUI's ``<lora:NAME:strength>``. Of a DoRA, whose
    lengths are no sum, ``B @ A`` alone is scaled."""
    before = {name: layer.scaling[ADAPTER] for name, layer in adapter.layers.items()}
    try:
        for name, layer in adapter.layers.items():
            layer.scaling[ADAPTER] = before[name] * strength
        yield
    finally:
        for name, layer in adapter.layers.items():
            layer.scaling[ADAPTER] = before[name]


@contextmanager
def switched_off(layers: Iterable[Any]) -> Iterator[None]:
    """PEFT layers that for a while pass on what their base layers give, bit for bit."""
    before = [(layer, layer._disable_adapters) for layer in layers]
    try:
        # PEFT's own switch also sets requires_grad, and so would end the training of what it switches
        for layer, _ in before:
            layer._disable_adapters = True
        yield
    finally:
        for layer, off in before:
            layer._disable_adapters = off


def disabled(adapter: Adapter) -> Any:
    """A context in which the model is the bare base, bit for bit."""
    return switched_off(list(adapter.layers.values()))


def set_training(model: Model, adapter: Adapter, on: bool) -> None:
    """Switches the adapter's dropout (and with it the recomputation of activations) on or off."""
    for component in adapter.matched:
        model.modules[component].train(on)
