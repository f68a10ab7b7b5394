"""Saves: a checkpoint to go on from and, beside it, a LoRA that a WebUI loads."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from lora_scripts.core.catalogue import render
from lora_scripts.core.control import Control
from lora_scripts.core.events import Emit, Event, Noted, RolledBack, Saved, SaveFailed, StepDone
from lora_scripts.core.paths import RunFolder
from lora_scripts.core.problems import Problem, ProblemsError
from lora_scripts.preflight.machine import free_disk
from lora_scripts.training.checkpoint import CheckpointStore, Snapshot
from lora_scripts.training.state import TrainingState
from lora_scripts.training.task import Exports

RETRIES = 10
"""A save that failed is tried again so many times before the next one would have been due."""


class Saving:
    """Saves every so many steps, at the end and on request. A disk that refuses is told and does not end the
    run. ``remake`` puts up the run's folder again where it has vanished."""

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
        remake: Callable[[], None],
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
        self.remake = remake
        self.resumed_from = state.step
        self.saved_step: int | None = None
        self.retry_step: int | None = None
        self.refusal = ""

    def __call__(self, event: Event, step: int) -> None:
        if isinstance(event, RolledBack):
            self._forget(event.to_step)
        if not isinstance(event, StepDone):
            return
        due = step % self.every_steps == 0 or step in (self.total_steps, self.retry_step)
        if self.control.take("save") or due:
            self.save(step)

    def save(self, step: int) -> None:
        """Brings checkpoint and export of ``step`` about; what is there already is left as it is."""
        if self.saved_step == step:
            return
        started = time.perf_counter()
        try:
            if not self.folder.identity.exists():
                self.remake()
                problem = Problem("LS5031", {"path": str(self.folder.root), "step": step}, severity="warning")
                self.emit(Noted(code=problem.code, text=render(problem)))
            if problems := self._spoiled(step):
                self.emit(Noted(code=problems[0].code, text=render(problems[0])))
                return
            written = self._write(step)
        except OSError as error:
            self._refused(step, error)
            return
        self.saved_step, self.retry_step = step, None
        if written is not None:
            name = self.store.path(step).relative_to(self.folder.root).as_posix()
            self.emit(Saved(checkpoint=name, export=written, seconds=time.perf_counter() - started))

    def _write(self, step: int) -> str | None:
        """The export's name, or None where checkpoint and export were there."""
        export = None
        if self.store.damage(step) is not None:
            self.store.save(self.snapshot(), pinned=self._pinned())
            export = self.exports.write(step).name
        elif not self.exports.has(step):
            export = self.exports.write(step).name
        # even where nothing was written: a process may have been killed between an export and this
        if self.state.best_step == step:
            self.exports.keep_best(step)
        if self.keep_exports is not None:
            self.exports.prune(self.keep_exports)
        return export

    def _pinned(self) -> set[int]:
        """What is kept whatever its age: the best one, the one that this attempt went on from, and while
        windows go wrong the one that the run may have to go back to."""
        since = self.state.trouble_since
        back = None if since is None else self.store.way_back(since, self.state.rollbacks)
        return {self.resumed_from, self.state.best_step or 0, back or 0} - {0}

    def _spoiled(self, step: int) -> list[Problem]:
        """Why a state is never written: weights that are not finite."""
        broken = self.snapshot().not_finite()
        return [Problem("LS6003", {"step": step, "name": broken}, severity="warning")] if broken else []

    def _forget(self, step: int) -> None:
        """What was saved after ``step`` is no part of the run any more."""
        self.saved_step = self.retry_step = None
        self.store.give_up_after(step)
        best = self.state.best_step
        if best is not None and self.exports.has(best):
            self.exports.keep_best(best)

    def _refused(self, step: int, error: OSError) -> None:
        self.refusal = error.strerror or str(error)
        retry = None
        if step < self.total_steps and not self.control.leaving:
            due = step - step % self.every_steps + self.every_steps
            retry = min(step + max(1, self.every_steps // RETRIES), due, self.total_steps)
        self.retry_step = retry
        self.emit(SaveFailed(reason=self.refusal, free=self._free(), retry_step=retry))

    def _free(self) -> int:
        try:
            return free_disk(self.folder.root) // 2**20
        except OSError:  # a disk that is gone
            return 0

    def require(self, step: int) -> None:
        """Saves, and raises ``ProblemsError`` where that is refused, by the disk (LS3951) or for weights that
        are not finite (LS6003): the process is leaving."""
        self.save(step)
        if self.saved_step != step:
            if problems := self._spoiled(step):
                raise ProblemsError(replace(problem, severity="error") for problem in problems)
            told = {"path": str(self.folder.root), "free": self._free(), "reason": self.refusal}
            raise ProblemsError(Problem("LS3951", told))

    def close(self) -> None:
        pass
