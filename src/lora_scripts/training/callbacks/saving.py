"""Saves: a checkpoint to go on from and, beside it, a LoRA that a WebUI loads."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from lora_scripts.core.control import Control
from lora_scripts.core.events import Emit, Event, Saved, SaveFailed, StepDone
from lora_scripts.core.paths import RunFolder
from lora_scripts.core.problems import Problem, ProblemsError
from lora_scripts.training.checkpoint import CheckpointStore, Snapshot
from lora_scripts.training.state import TrainingState
from lora_scripts.training.task import Exports


class Saving:
    """Saves every so many steps, at the end and on request. A full disk is told and does not end the run."""

    def __init__(
        self,
        store: CheckpointStore,
        snapshot: Callable[[], Snapshot],
        exports: Exports,
        folder: RunFolder,
        state: TrainingState,
        control: Control,
        emit: Emit,
        *,
        every_steps: int,
        total_steps: int,
        keep_exports: int | None,
    ) -> None:
        self.store = store
        self.snapshot = snapshot
        self.exports = exports
        self.folder = folder
        self.state = state
        self.control = control
        self.emit = emit
        self.every_steps = every_steps
        self.total_steps = total_steps
        self.keep_exports = keep_exports
        self.saved_step: int | None = None

    def __call__(self, event: Event, step: int) -> None:
        if not isinstance(event, StepDone):
            return
        due = step % self.every_steps == 0 or step == self.total_steps
        if self.control.take("save") or due:
            self.save(step)

    def save(self, step: int) -> None:
        """Brings checkpoint and export of ``step`` about; what is there already is left as it is."""
        if self.saved_step == step:
            return
        started = time.perf_counter()
        try:
            path = self.store.path(step)
            if self.store.damage(step) is not None:
                pinned = {self.state.best_step} if self.state.best_step is not None else set()
                self.store.save(self.snapshot(), pinned=pinned)
            elif self.exports.has(step):
                self.saved_step = step
                return
            export = self._export(step)
        except OSError as error:
            self.emit(SaveFailed(reason=f"{error.strerror or error}"))
            return
        self.saved_step = step
        self.emit(
            Saved(
                checkpoint=path.relative_to(self.folder.root).as_posix(),
                export=export.name,
                seconds=time.perf_counter() - started,
            )
        )

    def _export(self, step: int) -> Path:
        path = self.exports.write(step)
        if self.state.best_step == step:
            self.exports.keep_best(step)
        if self.keep_exports is not None:
            self.exports.prune(self.keep_exports)
        return path

    def require(self, step: int) -> None:
        """Saves, and raises ``ProblemsError`` (LS5006) where the disk refuses: the process is leaving."""
        self.save(step)
        if self.saved_step != step:
            free = shutil.disk_usage(self.folder.root).free / 2**20
            raise ProblemsError(Problem("LS5006", {"path": str(self.folder.root), "free": f"{free:.0f}"}))

    def close(self) -> None:
        pass
