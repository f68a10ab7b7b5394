"""What the doctor is told, and what it found: plain values, the same for page, JSON and other programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..core.problems import Problem, Severity, errors
from ..data.wording import PLAIN, Wording

MOST_PIXELS = 512
"""Training size in pixels where no configuration names one."""


@dataclass(frozen=True)
class Settings:
    """How the data is to be learnt: values of a configuration, or what a run without one would take.

    ``metadata``: the table of captions, if it is not in the folder. ``trigger``: a word that every caption
    must hold. ``resolution``: training size in pixels, and ``step`` what a bucket's sides must be multiples
    of. ``crops``: look for pictures that are cut out of others, too.
    """

    metadata: Path | None = None
    exclude: tuple[Path, ...] = ()
    strict: bool = False
    background: str = "white"
    on_bad: str = "stop"
    on_animation: str = "first"
    wording: Wording = PLAIN
    trigger: str | None = None
    max_caption_tokens: int = 75
    resolution: int = MOST_PIXELS
    step: int = 64
    repeats: int = 1
    batch_size: int = 1
    accumulation: int = 1
    seed: int = 0
    crops: bool = False


@dataclass(frozen=True)
class Item:
    """One picture (or row) of a finding. ``facts``: numbers and words that the page shows beside it, by the
    keys ``doctor.fact.*``; ``problem``: the reason, where a reader has said one."""

    name: str
    path: Path | None = None
    width: int = 0
    height: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)
    problem: Problem | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "facts", MappingProxyType(dict(self.facts)))


@dataclass(frozen=True)
class Finding:
    """One kind of thing that is wrong. ``problem`` says what and what to do; ``groups`` holds the pictures,
    those that belong together in one group."""

    kind: str
    problem: Problem
    groups: tuple[tuple[Item, ...], ...] = ()

    @property
    def severity(self) -> Severity:
        return self.problem.severity


@dataclass(frozen=True)
class BucketCount:
    """A training shape in pixels, and how often pictures of that shape come in an epoch."""

    width: int
    height: int
    pictures: int


@dataclass(frozen=True)
class Report:
    """``named``: pictures that were looked at; ``usable``: those that decode; ``captioned``: usable ones with
    a caption that is not empty. ``windows``: optimizer steps of an epoch. ``words``: how often each tag (or
    word) is used, and ``as_tags`` which of the two it is. ``problems``: all that a training run would say."""

    folder: Path
    source: str
    settings: Settings
    named: int = 0
    usable: int = 0
    captioned: int = 0
    findings: tuple[Finding, ...] = ()
    buckets: tuple[BucketCount, ...] = ()
    windows: int = 0
    words: tuple[tuple[str, int], ...] = ()
    as_tags: bool = True
    different_words: int = 0
    tokens: tuple[int, int] = (0, 0)
    with_trigger: int = 0
    problems: tuple[Problem, ...] = ()

    @property
    def stops(self) -> bool:
        """Whether a training run would refuse this data."""
        return bool(errors(self.problems))

    @property
    def alarms(self) -> tuple[Finding, ...]:
        """Findings that want something done; the others are notes."""
        return tuple(finding for finding in self.findings if finding.severity != "note")
