"""A run of lora-scripts as `train` opens it (config, checks, cache, session), with a meter for its log."""

from __future__ import annotations

import resource
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lora_scripts.core.events import Event
    from lora_scripts.training.session import Session


def open_run(values: Mapping[str, Any]) -> tuple[Session, Any]:
    """The session on one thread, and the report of the data that it learns from."""
    from lora_scripts.training import heap

    heap.prepare()
    import torch

    from lora_scripts.config.schema import RunConfig
    from lora_scripts.core.problems import raise_errors
    from lora_scripts.preflight.prepare import prepare
    from lora_scripts.training.precision import resolve_mode
    from lora_scripts.training.session import open_session, pick_device, resolve

    torch.set_num_threads(1)
    prepared = prepare(RunConfig.model_validate(values))
    raise_errors(prepared.problems)
    device = pick_device()
    config = resolve(prepared, resolve_mode(prepared.config.mixed_precision, device))
    session = open_session(prepared, config, {}, device, lambda phase, done, total: None)
    return session, prepared.dataset


@dataclass
class Meter:
    """CPU seconds and peak memory of the process after each step, and the step's loss."""

    marks: list[tuple[float, int]] = field(default_factory=list)
    losses: list[float | None] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        from lora_scripts.core.events import StepDone

        if isinstance(event, StepDone):
            self.marks.append((time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))
            self.losses.append(event.loss)

    def figures(self) -> dict[str, Any]:
        return {
            "cpu_seconds": [mark[0] for mark in self.marks],
            "peak_bytes": [mark[1] * 1024 for mark in self.marks],
            "losses": self.losses,
        }


def versions(*names: str) -> dict[str, str]:
    return {name: version(name) for name in (*names, "lora-scripts")}
