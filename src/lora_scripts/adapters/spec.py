"""What an adapter is to be: a value that names no library."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from lora_scripts.core.lookup import did_you_mean
from lora_scripts.core.problems import Problem, ProblemsError
from lora_scripts.families._base import Sheet

REGEX = frozenset("*+?()[]{}|^$\\")
"""A word without any of these is meant as a name. The dot is left out: names have dots too."""


@dataclass(frozen=True)
class AdapterSpec:
    """A LoRA (Hu et al. 2021).

    ``targets``: ``"auto"`` (the family's default), the name of a preset, or names and regular expressions.
    ``rslora``: scaled by the rank's root (Kalajdzievski 2023). ``dora``: a length for each output is learnt
    beside the direction (Liu et al. 2024). ``init``: ``"default"`` starts without effect from random
    directions, ``"pissa"`` from the largest singular values of the weights (Meng et al. 2024).
    ``conv_rank`` takes the family's convolutions along, at ``conv_alpha``. ``rank_pattern``: name or regular
    expression -> rank, the first that fits; the scale stays what it is.
    """

    rank: int
    alpha: float
    dropout: float = 0.0
    targets: str | tuple[str, ...] = "auto"
    rslora: bool = False
    dora: bool = False
    init: Literal["default", "pissa"] = "default"
    conv_rank: int | None = None
    conv_alpha: float | None = None
    rank_pattern: Mapping[str, int] = field(default_factory=dict)

    @property
    def scale(self) -> float:
        """What stands in front of ``B @ A``: ``alpha / rank``, of rsLoRA ``alpha / sqrt(rank)``."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    def layer(self, component: str, module: str, shape: tuple[int, ...]) -> tuple[int, float]:
        """Rank and alpha of one layer with a weight of ``shape``. Alpha follows the rank, so that a pattern
        changes what can be learnt and not how strongly; of rsLoRA, whose point that is, it stays."""
        rank, alpha = self.rank, self.alpha
        if self.conv_rank is not None and math.prod(shape[2:]) > 1:
            rank, alpha = self.conv_rank, self.conv_alpha or float(self.conv_rank)
        found = next((r for p, r in self.rank_pattern.items() if fits(p, component, module)), rank)
        return found, alpha if self.rslora else alpha * found / rank


def fits(pattern: str, component: str, module: str) -> bool:
    """A pattern fits a module by its whole name, by the end of it, or as a regular expression of either."""
    full = f"{component}.{module}"
    if pattern in (module, full) or module.endswith("." + pattern):
        return True
    return re.fullmatch(pattern, module) is not None or re.fullmatch(pattern, full) is not None


def _leaves(modules: Iterable[str]) -> list[str]:
    """The last parts of the names, the most frequent first: the layers that every block has."""
    counted = Counter(name.rsplit(".", 1)[-1] for name in modules)
    return [leaf for leaf, _ in counted.most_common() if not leaf.isdigit()]


def _by_list(
    patterns: Iterable[str], modules: Mapping[str, Mapping[str, tuple[int, ...]]], components: Iterable[str]
) -> dict[str, list[str]]:
    matched: dict[str, list[str]] = {name: [] for name in components}
    problems: list[Problem] = []
    leaves = _leaves(m for c in matched for m in modules[c])
    usual = leaves[0] if leaves else "all-linear"
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            params = {"pattern": pattern, "reason": str(error), "near": usual}
            problems.append(Problem("LS4021", params))
            continue
        found = {c: [m for m in modules[c] if fits(pattern, c, m)] for c in matched}
        if not any(found.values()):
            near = did_you_mean(pattern, leaves, cutoff=50.0) or usual
            problems.append(Problem("LS4022", {"pattern": pattern, "near": near}))
        for component, names in found.items():
            matched[component] += names
    if problems:
        raise ProblemsError(problems)
    return matched


def _trainable(sheet: Sheet, modules: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The predictor's modules that a LoRA may adapt with an effect."""
    found = {name: shape for name, shape in modules.items() if re.fullmatch(sheet.trainable, name)}
    numbers = (part for name in found for part in name.split(".")[1:2] if part.isdigit())
    last = max(map(int, numbers), default=0)
    idle = {name.replace(".last.", f".{last}.") for name in sheet.idle}
    return {name: shape for name, shape in found.items() if name not in idle}


def match_targets(
    sheet: Sheet,
    modules: Mapping[str, Mapping[str, tuple[int, ...]]],
    targets: str | Iterable[str],
    *,
    train_text_encoder: bool = False,
    convolutions: bool = False,
) -> dict[str, list[str]]:
    """Component -> names of the modules to adapt, in the model's own order.

    ``modules`` is ``Description.modules``. ``convolutions``: the family's
    convolutions as well. Raises ProblemsError: LS4020 nothing matched or no such preset,
    LS4021 a broken regular expression, LS4022 an entry that matches nothing.
    """
    components = [sheet.predictor, *(sheet.text_encoders if train_text_encoder else ())]
    if sheet.trainable:
        modules = {**modules, sheet.predictor: _trainable(sheet, modules[sheet.predictor])}
    preset = sheet.default_preset if targets == "auto" else targets
    if isinstance(preset, str) and preset in sheet.target_presets:
        table = sheet.target_presets[preset]
        matched = {
            c: [m for m in modules[c] if any(re.fullmatch(p, m) for p in table.get(c, ()))]
            for c in components
        }
    elif isinstance(preset, str):
        if not set(preset) & REGEX and not any(fits(preset, c, m) for c in components for m in modules[c]):
            near = did_you_mean(preset, sheet.target_presets) or sheet.default_preset
            params = {"preset": preset, "near": near, "known": ", ".join(sheet.target_presets)}
            raise ProblemsError(Problem("LS4023", params))
        matched = _by_list([preset], modules, components)
    else:
        matched = _by_list(preset, modules, components)
    if convolutions:
        for component, patterns in sheet.convolutions.items():
            if component in matched:
                extra = [m for m in modules[component] if any(re.fullmatch(p, m) for p in patterns)]
                matched[component] = [*matched[component], *extra]
    ordered = {c: [m for m in modules[c] if m in set(names)] for c, names in matched.items()}
    kept = {component: names for component, names in ordered.items() if names}
    if not kept:
        raise ProblemsError(Problem("LS4020", {"targets": str(targets), "preset": sheet.default_preset}))
    return kept
