"""What a finished text LoRA says about itself: gathered by the training session, written by the exporters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .facts import NOT_KEPT


@dataclass(frozen=True)
class TextFacts:
    """Nothing here may depend on the time, the machine's name or the run's folder.

    ``name``: how users call the LoRA. ``config``: the resolved configuration as plain values. ``data``: the
    short form of the data fingerprint. ``versions``: package -> version. ``step``: optimizer windows so far,
    of ``total_steps``; ``epochs``: passes over the rows. ``rows``: training rows, ``tokens``: those of them
    that carry loss, in one epoch. ``before``, ``after``: figures on the held-out rows (``loss``,
    ``perplexity``, ``accuracy``), empty where nothing was held out.
    """

    name: str
    config: Mapping[str, Any]
    data: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    step: int = 0
    total_steps: int = 0
    epochs: float = 0.0
    rows: int = 0
    tokens: int = 0
    objective: str = "sft"
    before: Mapping[str, float] = field(default_factory=dict)
    after: Mapping[str, float] = field(default_factory=dict)

    def kept_config(self) -> dict[str, Any]:
        """The configuration that repeats the run: without places, with the name spelled out."""
        kept = {key: value for key, value in self.config.items() if key not in NOT_KEPT}
        return {**kept, "output_name": self.name}
