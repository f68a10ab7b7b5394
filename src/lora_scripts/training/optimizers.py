"""Optimizers by name, and their state as named tensors so that a checkpoint needs no pickle.

Every tensor keeps its own dtype (8-bit states too); what is not a tensor goes into JSON, floats as hex.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

SEPARATOR = "|"
GROUP = "@group:"
FIXED = frozenset({"params", "name", "lr", "base_lr", "betas", "eps", "weight_decay", "foreach", "fused"})
"""Keys of a parameter group that the configuration gives; the others may change while it trains."""


def _adamw(groups: list[dict[str, Any]], weight_decay: float) -> torch.optim.Optimizer:
    import torch

    return torch.optim.AdamW(groups, weight_decay=weight_decay, fused=True)


def _adamw8bit(groups: list[dict[str, Any]], weight_decay: float) -> torch.optim.Optimizer:
    from bitsandbytes.optim import AdamW8bit

    return AdamW8bit(groups, weight_decay=weight_decay)


def _adafactor(groups: list[dict[str, Any]], weight_decay: float) -> torch.optim.Optimizer:
    import torch

    # By its own second epsilon a step is a share of the weights' size, and second matrices start at zero:
    # with 1 it is as long as the rate says, as it is of the others.
    return torch.optim.Adafactor(groups, eps=(None, 1.0), weight_decay=weight_decay, foreach=True)


def _prodigy(groups: list[dict[str, Any]], weight_decay: float) -> Any:
    from prodigyopt import Prodigy

    return Prodigy(groups, weight_decay=weight_decay, use_bias_correction=True, safeguard_warmup=True)


def _schedulefree(groups: list[dict[str, Any]], weight_decay: float) -> Any:
    from schedulefree import AdamWScheduleFree

    optimizer = AdamWScheduleFree(groups, weight_decay=weight_decay)
    optimizer.train()  # for good: what is measured and exported is computed beside (see averages)
    return optimizer


OPTIMIZERS: dict[str, Callable[[list[dict[str, Any]], float], Any]] = {
    "adamw": _adamw,
    "adamw8bit": _adamw8bit,
    "adafactor": _adafactor,
    "prodigy": _prodigy,
    "schedulefree": _schedulefree,
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
    """The state as (tensors, scalars), each under ``<parameter name>|<state key>``; what an optimizer keeps
    for a whole group (Prodigy's estimate, schedule-free's sums) under ``@group:<name>|<key>``."""
    tensors: dict[str, torch.Tensor] = {}
    scalars: dict[str, Any] = {}
    for parameter, state in optimizer.state.items():
        _pack(names[parameter], state, tensors, scalars)
    for group in optimizer.param_groups:
        kept = {
            key: value
            for key, value in group.items()
            if key not in FIXED and not isinstance(value, (str, tuple, list, type(None)))
        }
        _pack(GROUP + group["name"], kept, tensors, scalars)
    return tensors, scalars


def _pack(
    owner: str, state: Mapping[str, Any], tensors: dict[str, torch.Tensor], scalars: dict[str, Any]
) -> None:
    import torch

    for key, value in state.items():
        if isinstance(value, torch.Tensor):
            tensors[f"{owner}{SEPARATOR}{key}"] = value.detach()
        else:
            scalars[f"{owner}{SEPARATOR}{key}"] = value.hex() if isinstance(value, float) else value


def unpack_state(
    optimizer: Any,
    parameters: Mapping[str, Any],
    tensors: Mapping[str, torch.Tensor],
    scalars: Mapping[str, Any],
) -> None:
    """Puts a packed state back, past ``load_state_dict``, which casts 8-bit states to the weights' dtype."""
    groups = {GROUP + group["name"]: group for group in optimizer.param_groups}
    for name, value in [*tensors.items(), *scalars.items()]:
        owner, key = name.rsplit(SEPARATOR, 1)
        if isinstance(value, str):
            value = float.fromhex(value)
        if owner in groups:
            groups[owner][key] = value.clone() if hasattr(value, "clone") else value
            continue
        parameter = parameters[owner]
        if hasattr(value, "clone"):
            # torch keeps a step counter on the CPU whatever the weights' device
            value = value.clone() if key == "step" else value.to(parameter.device, copy=True)
        optimizer.state[parameter][key] = value
