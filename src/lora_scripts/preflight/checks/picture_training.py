"""Settings of a picture run that do not go together, or not with the base."""

from __future__ import annotations

import re
from pathlib import Path

from lora_scripts.adapters.spec import AdapterSpec, fits, match_targets
from lora_scripts.config.schema import OWN_RATE, RunConfig
from lora_scripts.core.problems import Problem, ProblemsError
from lora_scripts.export.earlier import fitted
from lora_scripts.families._base import Description, Family, ImageDescription

from .flow import check_flow


def check_picture_training(
    config: RunConfig, family: Family | None, description: Description | None
) -> list[Problem]:
    """Everything that configuration and description can tell; of texts nothing."""
    if config.task_type != "image-generation":
        return []
    problems = _losses(config, description) + _prediction(description) + _keys(config)
    if family is not None and isinstance(description, ImageDescription):
        problems += check_flow(config, family, description) + _layers(config, family, description)
    return problems


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


def _prediction(description: Description | None) -> list[Problem]:
    if _settled(description):
        return []
    assert isinstance(description, ImageDescription)
    told = {"base": description.source.name, "resolution": description.resolution}
    return [Problem("LS4403", told, severity="note")]


def _keys(config: RunConfig) -> list[Problem]:
    problems = []
    if config.use_dora:
        problems.append(Problem("LS4404", severity="warning"))
    if config.conv_alpha is not None and config.conv_rank is None:
        problems.append(Problem("LS4407"))
    text = config.text_encoder_learning_rate
    if config.optimizer in OWN_RATE:
        apart = {
            "text_encoder_learning_rate": text is not None and text != config.learning_rate,
            "lr_pattern": any(factor != 1.0 for factor in config.lr_pattern.values()),
        }
        problems += [
            Problem("LS4408", {"key": key, "optimizer": config.optimizer})
            for key, wanted in apart.items()
            if wanted
        ]
    return problems


def _layers(config: RunConfig, family: Family, description: ImageDescription) -> list[Problem]:
    """What needs the base's layers, which are only built where something asks for them."""
    problems: list[Problem] = []
    if config.clip_skip > 1 and family.sheet.supports.get("clip_skip") is True:
        problems += _clip_skip(config, family, description)
    patterns = {"rank_pattern": [*config.rank_pattern], "lr_pattern": [*config.lr_pattern]}
    broken = [problem for each in patterns.values() for problem in _broken(each)]
    earlier = Path(config.init_from).expanduser() if config.init_from else None
    if broken or not (any(patterns.values()) or (earlier and earlier.is_file())):
        return problems + broken
    spec = spec_of(config)
    try:
        matched = match_targets(
            family.sheet,
            description.modules,
            spec.targets,
            train_text_encoder=config.train_text_encoder,
            convolutions=spec.conv_rank is not None,
        )
    except ProblemsError:
        return problems  # said where targets are checked
    places = [(component, module) for component, modules in matched.items() for module in modules]
    problems += [
        Problem("LS4405", {"key": key, "pattern": pattern, "near": places[0][1]})
        for key, each in patterns.items()
        for pattern in each
        if not any(fits(pattern, *place) for place in places)
    ]
    if earlier is not None and earlier.is_file():
        try:
            fitted(earlier, family, description.modules, matched, spec)
        except ProblemsError as error:
            problems += error.problems
    return problems


def spec_of(config: RunConfig) -> AdapterSpec:
    """The adapter that a picture configuration asks for."""
    targets = config.target_modules
    return AdapterSpec(
        rank=config.lora_rank,
        alpha=config.alpha,
        dropout=config.lora_dropout,
        targets=tuple(targets) if isinstance(targets, list) else targets,
        rslora=config.use_rslora,
        dora=config.use_dora,
        conv_rank=config.conv_rank,
        conv_alpha=config.conv_alpha,
        rank_pattern=config.rank_pattern,
    )


def _broken(patterns: list[str]) -> list[Problem]:
    problems = []
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            problems.append(
                Problem("LS4021", {"pattern": pattern, "reason": str(error), "near": "mid_block.*"})
            )
    return problems


def _clip_skip(config: RunConfig, family: Family, description: ImageDescription) -> list[Problem]:
    names = [name for part in family.sheet.text_encoders for name in description.modules[part]]
    layers = len({found[1] for name in names if (found := re.search(r"\.layers\.(\d+)\.", name))})
    if config.clip_skip <= layers:
        return []
    return [Problem("LS4406", {"value": config.clip_skip, "layers": layers})]
