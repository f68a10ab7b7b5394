"""One run from start to end: claim the folder, go on where it stood, train, export, say what came out."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_scripts.config.schema import RunConfig
from lora_scripts.core.catalogue import exit_code, render, say
from lora_scripts.core.control import Control
from lora_scripts.core.events import ControlTaken, Event, Noted, PhaseProgress, Resumed, RunEnded, RunStarted
from lora_scripts.core.files import clear_unfinished
from lora_scripts.core.lock import RunLock
from lora_scripts.core.paths import RunFolder
from lora_scripts.core.problems import Problem, ProblemsError
from lora_scripts.core.secrets import drop_hub_tokens
from lora_scripts.preflight.prepare import Prepared, Report

from . import records
from .bus import Bus, Tolerant
from .callbacks.board import TensorBoard
from .callbacks.console import ConsoleLines
from .callbacks.guard import DivergedError, Guard
from .callbacks.jsonl import JsonLines
from .callbacks.saving import Saving
from .callbacks.tracking import Tracking, open_trackers
from .callbacks.validation import Validation
from .checkpoint import CheckpointStore, Snapshot
from .failures import NoMemoryError, disk_failures, translated
from .identity import Identity, Record, as_begun, claim, move_aside
from .precision import resolve_mode
from .processes import Group, join
from .recovery import Recovery
from .schedules import SHAPES
from .session import Session, open_session, pick_device, put_back, resolve, snapshot_of
from .state import TrainingState
from .task import Exports

if TYPE_CHECKING:
    import torch
    from rich.console import Console

LENGTHS = ("epochs: ", "max_steps: ")
FOLLOW_LENGTH = frozenset(SHAPES) - {"constant", "inverse_sqrt"}
"""Schedules whose curve spans the whole run."""


class Leaving(Exception):  # noqa: N818 - a wish, not an error
    """The run was asked to stop during a phase before the first step: there is nothing to save."""


def execute(prepared: Prepared, *, overwrite: bool, console: Console) -> int:
    """Trains, exports and returns the exit code. Raises ``ProblemsError`` for what stops a run."""
    with translated():
        group = join()
        try:
            with disk_failures(Path(prepared.config.output_dir)):
                return _execute(prepared, group, overwrite, console)
        finally:
            group.leave()


def _execute(prepared: Prepared, group: Group, overwrite: bool, console: Console) -> int:
    device = pick_device()
    config = resolve(prepared, resolve_mode(prepared.config.mixed_precision, device))
    folder = RunFolder(Path(config.output_dir).expanduser(), config.name)
    if not group.main:
        return follow(prepared, config, folder, device, group)
    if overwrite and folder.root.exists():
        with RunLock(folder):  # a run that is going on in it is refused here
            pass
        if moved := move_aside(folder.root):
            console.print(say("run.moved_aside", path=moved), highlight=False, markup=False, soft_wrap=True)
    with RunLock(folder) as lock:
        return Run(prepared, config, folder, device, console, group, lock).go()


def follow(
    prepared: Prepared, config: RunConfig, folder: RunFolder, device: torch.device, group: Group
) -> int:
    """The part of every process but the first: its share of each window. It writes and says nothing."""
    assert prepared.dataset is not None
    assert prepared.description is not None
    state, control = TrainingState(), Control()
    control.install_signals()
    step = group.from_main(0)
    data = prepared.dataset.fingerprint()
    identity = Identity.of(config, prepared.description.fingerprint, data)
    record = Record.read(folder)
    begun = record.digest if record else identity.digest
    if record:
        _begin_as(prepared, record.windows)
    group.wait()  # the first process has filled the caches
    session = open_session(prepared, config, data, device, lambda phase, done, total: None, group)
    store = CheckpointStore(folder.checkpoints, identity=begun, keep=config.keep_checkpoints)
    if step:
        snapshot = store.load(step)
        state.restore(snapshot.state["training"])
        put_back(session, snapshot)
    group.wait()
    guard = Guard(state, session.batches, session.job.precision, unheard, spikes=config.spike_guard)
    try:
        with translated():
            Recovery(session, state, store, control, lambda event: guard(event, state.step)).train()
    except (DivergedError, NoMemoryError) as error:  # all processes stop alike, and the first one says it
        return exit_code(error.problems)
    return control.exit_code


def _begin_as(prepared: Prepared, windows: Mapping[str, int]) -> None:
    """The plan of a run that goes on is the one that it began with."""
    report: Any = prepared.dataset
    prepared.dataset = replace(report, plan=as_begun(report.plan, windows))


def unheard(event: Event) -> None:
    """Where the first process alone speaks."""


class Run:
    """One attempt at one run, with its folder locked and claimed (``claim``, and what it raises)."""

    def __init__(
        self,
        prepared: Prepared,
        config: RunConfig,
        folder: RunFolder,
        device: torch.device,
        console: Console,
        group: Group,
        lock: RunLock,
    ) -> None:
        assert prepared.description is not None
        assert prepared.dataset is not None
        self.prepared = prepared
        self.config = config
        self.folder = folder
        self.device = device
        self.console = console
        self.group = group
        self.lock = lock
        self.dataset: Report = prepared.dataset
        self.state = TrainingState()
        self.bus = Bus(self.state)
        self.trackers: list[Tracking] = []
        self.control = Control(folder.control, lambda name: self.bus.emit(ControlTaken(request=name)))
        self.data = self.dataset.fingerprint()
        self.identity = Identity.of(config, prepared.description.fingerprint, self.data)
        self.claim = claim(folder, self.identity, resume=config.resume)
        self.store = CheckpointStore(
            folder.checkpoints, identity=self.claim.digest, keep=config.keep_checkpoints
        )

    def go(self) -> int:
        """The whole attempt. Returns the exit code; raises ``ProblemsError`` for what stops it."""
        config = self.config
        self.control.install_signals()
        _begin_as(self.prepared, self.claim.windows)
        for place in self.folder.written():
            clear_unfinished(place)
        records.write_start(config, self.folder, self.device)
        snapshot, damaged = self._newest() if self.claim.start == "resume" else (None, [])
        self.bus.add([Tolerant(JsonLines(self.folder.events, config.logging.every_steps), self.bus.emit)])
        total, start = self.dataset.total_steps, self.state.step
        lines = ConsoleLines(self.console, config.task_type, total, start, config.save_steps)
        self.bus.add([Tolerant(lines, self.bus.emit)])
        status, code = "failed", 1
        try:
            self._tell_resume(snapshot, damaged)
            with translated(), disk_failures(self.folder.root):
                self.group.from_main(self.state.step)
                session = open_session(
                    self.prepared, config, self.data, self.device, self._progress, self.group
                )
                drop_hub_tokens()  # all is downloaded
                if session.config != self.config:
                    records.write_config(session.config, self.folder)
                self.group.wait()  # the others read what the caches now hold
                if snapshot is not None:
                    put_back(session, snapshot)
                self.group.wait()
                status, code = self._train(session)
        except Leaving:
            status, code = "interrupted", self.control.exit_code
            self._say("run.left_early")
        except ProblemsError as error:
            code = exit_code(error.problems)
            raise
        finally:
            with suppress(OSError):  # a full disk must not hide what stopped the run
                for tracker in self.trackers:
                    tracker.finish(status == "finished")
                self.bus.emit(RunEnded(status=status, exit_code=code))
                self.bus.close()
        return code

    def _newest(self) -> tuple[Snapshot | None, list[Problem]]:
        """The newest whole checkpoint, and a warning for each damaged newer one, which is set aside."""
        step, damaged = self.store.newest()
        warnings = [
            Problem("LS5005", {"name": self.store.path(bad).name, "reason": reason}, severity="warning")
            for bad, reason in damaged.items()
        ]
        for bad in damaged:
            self.store.set_aside(bad)
        if step is None:
            return None, warnings
        snapshot = self.store.load(step)
        self.state.restore(snapshot.state["training"])
        return snapshot, warnings

    def _tell_resume(self, snapshot: Snapshot | None, damaged: list[Problem]) -> None:
        left_behind = [self.lock.left_behind] if self.lock.left_behind else []
        for problem in [*left_behind, *damaged]:
            self.bus.emit(Noted(code=problem.code, text=render(problem)))
        if snapshot is not None:
            passed_over = [str(problem.params["name"]) for problem in damaged]
            name, changed = self.store.path(snapshot.step).name, list(self.claim.changed)
            self.bus.emit(Resumed(checkpoint=name, skipped_checkpoints=passed_over, changed=changed))
            if (
                any(line.startswith(LENGTHS) for line in changed)
                and self.config.lr_scheduler in FOLLOW_LENGTH
            ):
                told = {"total": self.dataset.total_steps, "scheduler": self.config.lr_scheduler}
                self._say("run.resumed_length", **told)
        elif self.claim.start == "resume":
            self._say("run.nothing_to_resume")

    def _progress(self, phase: str, done: int, total: int) -> None:
        self.bus.emit(PhaseProgress(phase=phase, done=done, total=total))
        self.control.poll()
        if self.control.leaving:
            raise Leaving

    def _say(self, key: str, **params: Any) -> None:
        with suppress(OSError):  # nobody reads it any more, or the disk behind it is full
            self.console.print(say(key, **params), highlight=False, markup=False, soft_wrap=True)

    def _remake(self) -> None:
        """The folder that vanished, with what says whose it is."""
        self.lock.renew()
        self.identity.write(self.folder, self.claim)
        records.write_start(self.config, self.folder, self.device)

    def _train(self, session: Session) -> tuple[str, int]:
        state, job = self.state, session.job
        self.bus.emit(
            RunStarted(
                name=self.config.name,
                family=session.family.sheet.named(),
                device=str(self.device),
                precision=self.config.mixed_precision,
                total_steps=job.total_steps,
                start_step=state.step,
                task=self.config.task_type,
                examples=len(self.dataset.train),
                held_out=len(self.dataset.validation),
                adapter_modules=sum(len(names) for names in session.adapter.matched.values()),
                adapter_parameters=session.adapter.count(),
            )
        )
        for note in session.notes:
            self.bus.emit(note)
        exports = session.task.exports(session, state, self.folder)
        saving = self._watch(session, exports)
        if state.step:  # a process killed between checkpoint and export left the second one out
            saving.save(state.step)
        Recovery(session, state, self.store, self.control, self.bus.emit, saving).train()
        saving.require(state.step)
        if self.control.take("stop"):
            self._say("run.left", step=state.step, total=job.total_steps)
            return "stopped", self.control.exit_code
        records.write_result(self.folder, state, "finished", **exports.finish(self.bus.emit))
        with suppress(OSError):
            for line in exports.done_lines():
                self.console.print(line, highlight=False, markup=False, soft_wrap=True)
        return "finished", 0

    def _watch(self, session: Session, exports: Exports) -> Saving:
        """Everything that acts on steps. Validation comes before saving, so that a save knows the best."""
        config, state, job = self.config, self.state, session.job
        saving = Saving(
            self.store,
            lambda: snapshot_of(job, state),
            exports,
            self.folder,
            state,
            self.control,
            self.bus.emit,
            every_steps=config.save_steps,
            total_steps=job.total_steps,
            keep_exports=config.keep_exports,
            remake=self._remake,
        )
        guard = Guard(state, session.batches, job.precision, self.bus.emit, spikes=config.spike_guard)
        self.bus.add([guard])
        if config.logging.tensorboard:
            self._say("run.board", path=self.folder.root)
            board = TensorBoard(
                self.folder.logs,
                job.parameters,
                self.folder.root,
                start_step=state.step,
                every_steps=config.logging.every_steps,
                histogram_every_steps=config.logging.histogram_every_steps,
            )
            self.bus.add([Tolerant(board, self.bus.emit)])
        if config.logging.trackers:
            shown = records.config_values(session.config)
            self.trackers = open_trackers(config, shown, self.folder, self.bus.emit)
            self.bus.add(self.trackers)
        if session.evaluator is not None:
            validation = Validation(
                session.evaluator,
                state,
                self.control,
                self.bus.emit,
                every_steps=config.validation.every_steps or config.save_steps,
                total_steps=job.total_steps,
                patience=config.validation.early_stopping_patience,
            )
            self.bus.add([validation])
            validation.before()
        self.bus.add([saving])
        if config.preview.prompts:
            previews = session.task.previews(session, self.folder, self.control, self.bus.emit)
            watched = Tolerant(previews, self.bus.emit)
            self.bus.add([watched])
            watched.guarded(lambda: previews.before(state.step))
        return saving
