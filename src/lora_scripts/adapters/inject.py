"""PEFT's layers put into a model in place, and taken out again. How PEFT nests them is known here alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .compiled_later import compiled_later

if TYPE_CHECKING:
    from torch import nn

INNER = "base_layer"
"""PEFT's name for what a layer of its own is wrapped around."""
QUANTISED = {"Linear4bit": "is_loaded_in_4bit", "Linear8bitLt": "is_loaded_in_8bit"}
"""Class of bitsandbytes -> the mark on a model by which PEFT knows that it has such layers."""


def experts_in(module: nn.Module, names: Sequence[str]) -> list[str]:
    """Those of ``names`` that are no modules but parameters, as the fused weights of experts are."""
    modules = dict(module.named_modules())
    return [name for name in names if name not in modules]


def inject(module: nn.Module, names: Sequence[str], adapter: str, **settings: Any) -> None:
    """Wraps the modules ``names``, and the parameters among them, in PEFT's layers; nothing else moves.

    ``settings`` are those of ``LoraConfig``. Dropout is left out at experts: PEFT has none there.
    """
    import torch

    with compiled_later():
        from peft import LoraConfig, inject_adapter_in_model

    experts = experts_in(module, names)
    linear = [name for name in names if name not in set(experts)]
    configs = []
    if linear:
        pattern = "|".join(re.escape(f"held.{name}") for name in linear)
        configs.append(LoraConfig(target_modules=pattern, init_lora_weights=False, **settings))
    if experts:
        targets = [f"held.{name}" for name in experts]
        plain = settings | {"lora_dropout": 0.0, "init_lora_weights": False}
        configs.append(LoraConfig(target_modules=[], target_parameters=targets, **plain))
    for config in configs:
        holder = _holder(module)
        with torch.random.fork_rng(devices=[]):
            inject_adapter_in_model(config, holder, adapter)
    vars(module)["peft_config"] = {adapter: configs[0]}


def _holder(module: nn.Module) -> nn.Module:
    """A module that holds ``module`` alone.

    PEFT rewrites the targets of a model whose configuration it knows (gate_proj of a shared expert becomes
    the fused experts' gate_up_proj); under a holder it sees no configuration and takes names as they are.
    """
    from torch import nn

    holder = nn.Module()
    holder.add_module("held", module)
    kinds = {type(part).__name__ for part in module.modules()}
    for kind, flag in QUANTISED.items():
        setattr(holder, flag, kind in kinds)
    return holder


def keep_weights(module: nn.Module) -> None:
    """Stops bitsandbytes' 4-bit layers from repacking their weights.

    On a processor with AVX512-BF16 they do so in the first forward pass without gradient. That rounds the
    scales of the blocks for good, so that a validation would change the base that is trained on.
    """
    part: Any
    for part in module.modules():
        if hasattr(part, "support_avx512bf16_for_cpu"):
            part.support_avx512bf16_for_cpu = False


def find(module: nn.Module, name: str) -> tuple[str, Any]:
    """The PEFT layer of the module or parameter ``name``, and the path at which its matrices lie."""
    owner, _, leaf = name.rpartition(".")
    try:
        return name, module.get_submodule(name)
    except AttributeError:
        path = owner
    layer: Any = module.get_submodule(owner)
    while getattr(layer, "parameter_name", leaf) != leaf:
        path, layer = f"{path}.{INNER}", layer.base_layer
    return path, layer


def eject(module: nn.Module, names: Sequence[str]) -> None:
    """Puts the original modules back in the places of their layers."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name in names:
        path, _ = find(module, name)
        path = path.partition(f".{INNER}")[0]
        layer = module.get_submodule(path)
        if not isinstance(layer, BaseTunerLayer):
            continue  # several parameters of one module share a stack of wrappers, gone with the first
        owner, _, leaf = path.rpartition(".")
        parent: Any = module.get_submodule(owner)
        if leaf.isdigit():
            parent[int(leaf)] = layer.get_base_layer()
        else:
            setattr(parent, leaf, layer.get_base_layer())
    if hasattr(module, "peft_config"):
        delattr(module, "peft_config")
