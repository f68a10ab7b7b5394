"""Optimizers by name, and their state as named tensors so that a checkpoint needs no pickle.

Every tensor keeps its own dtype (8-bit states too); what is not a tensor goes into JSON, floats as hex.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

SEPARATOR = "|"


def _adamw(groups: list[dict[str, Any]], weight_decay: float) -> torch.optim.Optimizer:
    import torch

    return torch.optim.AdamW(groups, weight_decay=weight_decay, foreach=True)


def _adamw8bit(groups: list[dict[str, Any]], weight_decay: float) -> torch.optim.Optimizer:
    from bitsandbytes.optim import AdamW8bit

    return AdamW8bit(groups, weight_decay=weight_decay)


OPTIMIZERS: dict[str, Callable[[list[dict[str, Any]], float], Any]] = {
    "adamw": _adamw,
    "adamw8bit": _adamw8bit,
}


def build(name: str, groups: Mapping[str, tuple[Mapping[str, Any], float]], weight_decay: float) -> Any:
    """``groups``: name -> (parameters by name, learning rate). Each becomes one parameter group."""
    return OPTIMIZERS[name](
        [
            {"name": group, "params": list(parameters.values()), "lr": rate, "base_lr": rate}
            for group, (parameters, rate) in groups.items()
            if parameters
        ],
        weight_decay,
    )


def plus_groups(
    groups: Mapping[str, tuple[Mapping[str, Any], float]], ratio: float | None
) -> dict[str, tuple[Mapping[str, Any], float]]:
    """LoRA+ (Hayou et al. 2024): each group's second matrices, ``B``, learn ``ratio`` times as fast as the
    rest of it, in a group ``<name>_b`` of their own. Without a ratio, or with 1, the groups as they are."""
    if ratio is None or ratio == 1.0:
        return dict(groups)
    split: dict[str, tuple[Mapping[str, Any], float]] = {}
    for group, (parameters, rate) in groups.items():
        second = {name: p for name, p in parameters.items() if ".lora_B." in name}
        split[group] = ({name: p for name, p in parameters.items() if name not in second}, rate)
        split[f"{group}_b"] = (second, rate * ratio)
    return split


def set_rates(optimizer: Any, factor: float) -> dict[str, float]:
    """Multiplies each group's own rate by ``factor``; returns the rates in use by group name."""
    rates = {}
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
        rates[group["name"]] = group["lr"]
    return rates


def pack_state(optimizer: Any, names: Mapping[Any, str]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The state as (tensors, scalars), each under ``<parameter name>|<state key>``."""
    import torch

    tensors: dict[str, torch.Tensor] = {}
    scalars: dict[str, Any] = {}
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            name = f"{names[parameter]}{SEPARATOR}{key}"
            if isinstance(value, torch.Tensor):
                tensors[name] = value.detach()
            else:
                scalars[name] = value.hex() if isinstance(value, float) else value
    return tensors, scalars


def unpack_state(
    optimizer: Any,
    parameters: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor],
    scalars: Mapping[str, Any],
) -> None:
    """Puts a packed state back, past ``load_state_dict``, which casts 8-bit states to the weights' dtype."""
    for name, value in [*tensors.items(), *scalars.items()]:
        parameter_name, key = name.rsplit(SEPARATOR, 1)
        parameter = parameters[parameter_name]
        if isinstance(value, str):
            value = float.fromhex(value)
        elif not isinstance(value, int):
            # torch keeps AdamW's step counter on the CPU whatever the weights' device
            value = value.clone() if key == "step" else value.to(parameter.device, copy=True)
        optimizer.state[parameter][key] = value
