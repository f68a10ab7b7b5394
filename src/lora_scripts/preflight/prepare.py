"""Everything that can be known before weights are loaded: for ``check``, and for the start of every run."""

from __future__ import annotations

from collections.abc import Callable, Sized
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from lora_scripts.adapters.spec import match_targets
from lora_scripts.config.schema import RunConfig
from lora_scripts.core.catalogue import say
from lora_scripts.core.problems import Problem, ProblemsError, errors
from lora_scripts.data.plan import Plan
from lora_scripts.families._base import (
    Description,
    Family,
    ImageDescription,
    ImageFamily,
    TextDescription,
    TextFamily,
    Unsupported,
)
from lora_scripts.families._source import Source, find, resolve

from .checks.cache_room import CacheRoom, cache_room, check_room
from .checks.captions import check_captions
from .checks.dataset import check_pictures
from .checks.flow import check_sides
from .checks.paths import without_repeats
from .checks.picture_training import check_picture_training
from .machine import Machine
from .runner import run_checks

FALLBACK_RESOLUTION, FALLBACK_MULTIPLE = 512, 64
"""Used to go on checking the pictures where the base model cannot be read."""

Progress = Callable[[str, int, int], None]


class Report(Protocol):
    """What a run learns from, as every task reports it. ``plan`` counts positions in ``train``."""

    @property
    def train(self) -> Sized: ...

    @property
    def validation(self) -> Sized: ...

    @property
    def plan(self) -> Plan | None: ...

    @property
    def total_steps(self) -> int:
        """Windows in the whole run."""
        ...

    def fingerprint(self) -> dict[str, Any]: ...

    def lines(self) -> list[str]:
        """The plan in numbers, in the user's language."""
        ...


@dataclass
class Prepared:
    """A config, what it was found to mean, and all that is wrong with it."""

    config: RunConfig
    machine: Machine
    family: Family | None = None
    source: Source | None = None
    description: Description | None = None
    dataset: Report | None = None
    cache: CacheRoom | None = None
    problems: list[Problem] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        return not errors(self.problems)


def prepare(config: RunConfig, progress: Progress | None = None) -> Prepared:
    """Runs every check that the inputs allow. Never raises for what is wrong: it is in ``problems``."""
    prepared = Prepared(config, Machine.probe())
    problems = prepared.problems
    problems += run_checks(prepared.machine, config)
    try:
        prepared.source = resolve(config.base_model)
        family = find(config.family, prepared.source)
        if family.sheet.task != config.task_type:
            told = {"path": prepared.source.name, "title": family.sheet.named(), "task": family.sheet.task}
            raise ProblemsError(Problem("LS1023", told))
        prepared.family = family
        prepared.description = _describe(prepared)
    except ProblemsError as error:
        problems += error.problems
    try:
        read = _texts if config.task_type == "text-generation" else _pictures
        read(prepared, progress)
    except ProblemsError as error:
        problems += error.problems
    problems += _fits_family(prepared) + _fits_targets(prepared) + _fits_length(prepared)
    problems += check_picture_training(config, prepared.family, prepared.description)
    problems[:] = _once(without_repeats(problems))
    return prepared


def _describe(prepared: Prepared) -> Description:
    config, source = prepared.config, prepared.source
    assert source is not None
    if config.task_type == "text-generation":
        return cast(TextFamily, prepared.family).describe(source)
    return cast(ImageFamily, prepared.family).describe(
        source, components=config.components, prediction_type=config.prediction_type
    )


def _pictures(prepared: Prepared, progress: Progress | None) -> None:
    config, description = prepared.config, cast(ImageDescription | None, prepared.description)
    resolution = description.resolution if description else FALLBACK_RESOLUTION
    prepared.dataset, found = check_pictures(
        config,
        resolution,
        description.size_multiple if description else FALLBACK_MULTIPLE,
        progress=(lambda done, total: progress("pictures", done, total)) if progress else None,
    )
    prepared.problems += found
    if description is not None:
        samples = prepared.dataset.forms
        kept = cast(ImageFamily, prepared.family).caption_counter(description.source, config.components)
        prepared.cache = cache_room(prepared.machine, config, description, samples, kept)
        prepared.problems += check_room(prepared.cache)
        prepared.problems += check_sides(samples.buckets()[0], description)
    if prepared.family is not None and prepared.source is not None:
        family = cast(ImageFamily, prepared.family)
        cutter = family.caption_cutter(prepared.source, config.components)
        limit = family.sheet.caption_tokens
        prepared.problems += check_captions(prepared.dataset.train.once(), cutter, config, limit)


def _texts(prepared: Prepared, progress: Progress | None) -> None:
    """Rows are read as the base's tokenizer reads them: without a base there is nothing to check them by."""
    if prepared.description is None:
        return
    from .checks.texts import check_texts

    prepared.dataset, found = check_texts(
        prepared.config,
        cast(TextFamily, prepared.family),
        cast(TextDescription, prepared.description),
        prepared.description.source,
        progress,
    )
    prepared.problems += found


def _fits_family(prepared: Prepared) -> list[Problem]:
    """What the config asks of the family that its data sheet says it cannot do."""
    config, family = prepared.config, prepared.family
    if family is None:
        return []
    asked = {
        "text_encoder_training": ("train_text_encoder", config.train_text_encoder),
        "gradient_checkpointing": ("gradient_checkpointing", config.gradient_checkpointing is True),
        "clip_skip": ("clip_skip", config.clip_skip > 1),
        "use_dora": ("use_dora", config.use_dora),
        "quantization": ("quantization", config.quantization != "none"),
    }
    found = []
    for feature, (key, wanted) in asked.items():
        support = family.sheet.supports.get(feature, True)
        if wanted and isinstance(support, Unsupported):
            told = {"key": key, "family": family.sheet.named(), "reason": say(support.reason)}
            found.append(Problem("LS1021", told))
    return found


def _fits_targets(prepared: Prepared) -> list[Problem]:
    """Module names of the user's own are matched against the base's layers; the presets are known to fit."""
    config, family, description = prepared.config, prepared.family, prepared.description
    if family is None or description is None:
        return []
    targets = config.target_modules
    if isinstance(targets, str) and targets in ("auto", *family.sheet.target_presets):
        return []
    try:
        match_targets(
            family.sheet, description.modules, targets, train_text_encoder=config.train_text_encoder
        )
    except ProblemsError as error:
        return error.problems
    return []


def _fits_length(prepared: Prepared) -> list[Problem]:
    total = prepared.dataset.total_steps if prepared.dataset else 0
    warmup = prepared.config.warmup_steps
    if not total or warmup < total:
        return []
    return [Problem("LS1020", {"warmup": warmup, "total": total, "advice": max(1, total // 20)})]


def _once(problems: list[Problem]) -> list[Problem]:
    """The same finding from two checks is said once."""
    seen: set[tuple[str, str, str]] = set()
    kept = []
    for problem in problems:
        mark = (problem.code, str(dict(problem.params)), str(problem.where))
        if mark not in seen:
            seen.add(mark)
            kept.append(problem)
    return kept
