"""What a finished LoRA says about itself: gathered by the training session, written by the exporters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

NOT_KEPT = ("output_dir", "cache_dir")
"""Configuration keys that say where things lie and not what was done: two equal runs may differ in them."""


@dataclass(frozen=True)
class ExportFacts:
    """Nothing here may depend on the time, the machine's name or the run's folder.

    ``name``: how users call the LoRA. ``config``: the resolved configuration as plain values. ``data``: the
    data fingerprint. ``versions``: package -> version. ``tag_frequency``: folder name -> tag -> count.
    ``step``, ``epoch``: how far training is; ``total_steps``, ``total_epochs``: how far it was to go.
    ``batches_per_epoch``: optimizer steps in an epoch. ``buckets``: "512x768" -> pictures.
    """

    name: str
    config: Mapping[str, Any]
    data: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    trigger_words: tuple[str, ...] = ()
    tag_frequency: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    step: int = 0
    total_steps: int = 0
    epoch: int = 0
    total_epochs: int = 0
    pictures: int = 0
    batches_per_epoch: int = 0
    resolution: tuple[int, int] | None = None
    buckets: Mapping[str, int] = field(default_factory=dict)
    mixed_precision: str = "no"

    def kept_config(self) -> dict[str, Any]:
        """The configuration that repeats the run: without places, with the name spelled out."""
        kept = {key: value for key, value in self.config.items() if key not in NOT_KEPT}
        return {**kept, "output_name": self.name}


def tag_frequency(captions: Iterable[str]) -> dict[str, int]:
    """How often each comma-separated, lower-cased part of a caption occurs, as sd-scripts counts."""
    counts: Counter[str] = Counter()
    for caption in captions:
        counts.update(tag for part in caption.split(",") if (tag := part.strip().lower()))
    return dict(sorted(counts.items()))
