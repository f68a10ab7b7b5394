"""What a task adds to a run: how its base is opened, previewed and exported. Saving knows this file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lora_scripts.adapters.attach import Adapter
from lora_scripts.config.schema import RunConfig
from lora_scripts.core.control import Control
from lora_scripts.core.events import Emit, Noted
from lora_scripts.core.paths import RunFolder
from lora_scripts.families._base import Batch, Draw, Item, Model
from lora_scripts.preflight.prepare import Prepared

from .bus import Listener
from .objective import Objective
from .precision import Precision
from .state import TrainingState

if TYPE_CHECKING:
    import numpy as np

    from .session import Session

Progress = Callable[[str, int, int], None]
"""Called with (phase, done, total); may raise to leave the phase: what is done is then on disk."""


class Examples(Protocol):
    """What is learnt from, by position in the plan."""

    def key(self, index: int) -> str:
        """A content hash: what is drawn at random for an example depends on it."""
        ...

    def item(self, index: int, draw: Draw) -> Item:
        """``draw`` decides between the forms of an example, where it has several."""
        ...

    def name(self, index: int) -> str:
        """What a person calls it: a picture's file, a row's file and line."""
        ...

    def sizes(self) -> np.ndarray:
        """(n,) how much each takes up of what is computed, pixels or tokens, to compare them by."""
        ...


@dataclass
class Opened:
    """A loaded base with its adapter, and what it is to learn.

    ``held_out``: the validation batches, made anew at each call; None without any. ``groups``: parameter
    groups, name -> (parameters, learning rate). ``extra``: what the task's own previews need. ``notes``: what
    is to be told before the first step. ``found``: keys of the configuration that only the weights could fill
    in, with their values.
    """

    model: Model
    adapter: Adapter
    examples: Examples
    objective: Objective
    groups: Mapping[str, tuple[Mapping[str, Any], float]]
    held_out: Callable[[], Iterable[Batch]] | None
    extra: Any = None
    notes: list[Noted] = field(default_factory=list)
    found: Mapping[str, Any] = field(default_factory=dict)


class Exports(Protocol):
    """The files for clients that a run leaves: at each save, the best one, the last one."""

    def has(self, step: int) -> bool: ...

    def write(self, step: int) -> Path:
        """Writes what is trained now as the export of ``step``."""
        ...

    def keep_best(self, step: int) -> None: ...

    def prune(self, keep: int) -> None: ...

    def finish(self, emit: Emit) -> dict[str, Any]:
        """Writes the final files, proves them by loading them, tells of them; what ``result.json`` keeps."""
        ...

    def done_lines(self) -> list[str]:
        """What a person is told at the end: what lies where and how it is used."""
        ...


class PreviewMaker(Listener, Protocol):
    def before(self, step: int) -> None:
        """Shows what the base does before it has learnt anything, or what an attempt that was stopped at
        ``step`` had no time to show."""
        ...


class Task(Protocol):
    def resolve(self, prepared: Prepared) -> dict[str, Any]:
        """What the base says about every ``auto`` of the task's own keys."""
        ...

    def open(
        self, prepared: Prepared, config: RunConfig, precision: Precision, progress: Progress
    ) -> Opened: ...

    def previews(self, session: Session, folder: RunFolder, control: Control, emit: Emit) -> PreviewMaker: ...

    def exports(self, session: Session, state: TrainingState, folder: RunFolder) -> Exports: ...


def task_named(name: str) -> Task:
    modules = {"image-generation": "image_task", "text-generation": "text_task"}
    task: Task = import_module(f"{__package__}.{modules[name]}").TASK
    return task
