"""Settings of a picture run that do not go together, or not with what the base predicts."""

from __future__ import annotations

from lora_scripts.config.schema import RunConfig
from lora_scripts.core.problems import Problem
from lora_scripts.families._base import Description, ImageDescription


def check_picture_training(config: RunConfig, description: Description | None) -> list[Problem]:
    """Everything that configuration and description can tell; of texts nothing."""
    if config.task_type != "image-generation":
        return []
    return _losses(config, description) + _prediction(config, description)


def _losses(config: RunConfig, description: Description | None) -> list[Problem]:
    problems = []
    if config.min_snr_gamma is not None and config.debiased_estimation_loss:
        problems.append(Problem("LS4400"))
    epsilon = isinstance(description, ImageDescription) and description.prediction_type == "epsilon"
    if config.zero_terminal_snr and epsilon and _settled(description):
        problems.append(Problem("LS4401"))
    return problems


def _settled(description: Description | None) -> bool:
    return not isinstance(description, ImageDescription) or description.prediction_settled


def _prediction(config: RunConfig, description: Description | None) -> list[Problem]:
    if _settled(description):
        return []
    assert isinstance(description, ImageDescription)
    told = {"base": description.source.name, "resolution": description.resolution}
    return [Problem("LS4403", told, severity="note")]
