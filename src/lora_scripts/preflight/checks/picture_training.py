"""Settings of a picture run that do not go together, or not with what the base predicts."""

from __future__ import annotations

from lora_scripts.config.schema import RunConfig
from lora_scripts.core.problems import Problem
from lora_scripts.families._base import Description, ImageDescription


def check_picture_training(config: RunConfig, description: Description | None) -> list[Problem]:
    """Everything that configuration and description can tell; of texts nothing."""
    if config.task_type != "image-generation":
        return []
    return _losses(config, description)


def _losses(config: RunConfig, description: Description | None) -> list[Problem]:
    problems = []
    if config.min_snr_gamma is not None and config.debiased_estimation_loss:
        problems.append(Problem("LS4400"))
    known = isinstance(description, ImageDescription) and description.prediction_type == "epsilon"
    if config.zero_terminal_snr and known:
        problems.append(Problem("LS4401"))
    return problems
