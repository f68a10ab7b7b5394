"""Settings of flow-matching bases, and settings that mean nothing to them."""

from __future__ import annotations

from collections.abc import Iterable

from lora_scripts.config.schema import RunConfig
from lora_scripts.core.problems import Problem
from lora_scripts.data.buckets import Bucket
from lora_scripts.families._base import Family, ImageDescription

OWN = (
    "timestep_sampling",
    "logit_mean",
    "logit_std",
    "mode_scale",
    "discrete_flow_shift",
    "weighting_scheme",
    "guidance_scale",
)
OTHERS = ("min_snr_gamma", "debiased_estimation_loss", "zero_terminal_snr", "noise_offset")
"""Remedies for noise schedules of another kind."""
NEEDS = {"logit_mean": "logit_normal", "logit_std": "logit_normal", "mode_scale": "mode"}
"""Key -> the ``timestep_sampling`` that it shapes."""
USUAL = "logit_normal"
"""What ``timestep_sampling: auto`` comes to for every family so far."""
PIECE = 75


def check_flow(config: RunConfig, family: Family, description: ImageDescription) -> list[Problem]:
    """LS4541 to LS4545: what does not go with the base, all at once."""
    title = family.sheet.named()
    if description.prediction_type != "flow":
        wrong = [key for key in OWN if getattr(config, key) is not None]
        return [Problem("LS4542", {"key": key, "title": title}) for key in wrong]
    problems = [Problem("LS4541", {"key": key, "title": title}) for key in OTHERS if getattr(config, key)]
    sampling = config.timestep_sampling or USUAL
    problems += [
        Problem("LS4543", {"key": key, "sampling": sampling, "needed": needed})
        for key, needed in NEEDS.items()
        if getattr(config, key) is not None and needed != sampling
    ]
    if config.guidance_scale is not None and not description.guided:
        problems.append(Problem("LS4544", {"base": description.source.name}))
    if family.sheet.caption_tokens and config.max_caption_tokens != PIECE:
        told = {"value": config.max_caption_tokens, "limit": family.sheet.caption_tokens, "title": title}
        problems.append(Problem("LS4545", told))
    return problems


def check_sides(buckets: Iterable[Bucket], description: ImageDescription) -> list[Problem]:
    """LS4546: shapes with a side beyond the places that the base knows."""
    limit = description.largest_side
    beyond = sorted({str(one) for one in buckets if limit and max(one.width, one.height) > limit})
    if not beyond:
        return []
    told = {"shapes": ", ".join(beyond), "base": description.source.name, "limit": limit}
    return [Problem("LS4546", told)]
