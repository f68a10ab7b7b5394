"""What a person sees while a run goes on: one live line in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from lora_scripts.core.catalogue import say
from lora_scripts.core.events import (
    ControlTaken,
    Event,
    Exported,
    Noted,
    PhaseProgress,
    Previewed,
    Resumed,
    RolledBack,
    RunStarted,
    Saved,
    SaveFailed,
    StepDone,
    Validated,
)
from lora_scripts.data.text_files import printable

PLAIN_SECONDS = 10.0
SMOOTHING = 0.95
TICK = 1e-6
"""Seconds: what a coarse clock may call no time at all."""
BANNER = 72
ANSWER = 100
"""Characters of a preview's answer that are shown; the page has it whole."""


class ConsoleLines:
    """Loss (smoothed), speed, ETA, memory and the next save."""

    def __init__(
        self, console: Console, task: str, total_steps: int, start_step: int, save_steps: int
    ) -> None:
        self.console = console
        self.unit = say(f"run.unit.{task}")
        self.total_steps = total_steps
        self.save_steps = save_steps
        self.loss: float | None = None
        self.rate: float | None = None
        self._last_plain = 0.0
        self._phase: str | None = None
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.start_step = start_step
        self.task: TaskID | None = None

    def __call__(self, event: Event, step: int) -> None:
        match event:
            case StepDone():
                self._step(event, step)
            case PhaseProgress():
                self._phase_progress(event)
            case RunStarted():
                self.progress.start()
                started = say("run.started", **event.model_dump(), unit=self.unit)
                self.console.print(started, highlight=False, markup=False, soft_wrap=True)
            case SaveFailed():
                banner = _banner(event, step, self.console.width)
                self.console.print(banner, highlight=False, markup=False, soft_wrap=True, style="bold red")
            case _:
                if text := _line(event, step):
                    self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _step(self, event: StepDone, step: int) -> None:
        if event.loss is not None:
            self.loss = (
                event.loss if self.loss is None else SMOOTHING * self.loss + (1 - SMOOTHING) * event.loss
            )
        speed = event.examples / max(event.seconds, TICK)
        self.rate = speed if self.rate is None else SMOOTHING * self.rate + (1 - SMOOTHING) * speed
        due = self.save_steps - step % self.save_steps
        facts = say(
            "run.facts",
            loss=f"{self.loss:.4f}" if self.loss is not None else "-",
            speed=f"{self.rate:.2f}",
            unit=self.unit,
            memory=f"{event.memory_gib:.1f}",
            save=min(due, self.total_steps - step),
        )
        if self.console.is_terminal:
            if self.task is None:
                self.task = self.progress.add_task(
                    say("run.training"), total=self.total_steps, completed=self.start_step, facts=""
                )
            self.progress.update(self.task, completed=step, facts=facts)
        elif step == self.total_steps or time.monotonic() - self._last_plain >= PLAIN_SECONDS:
            self._last_plain = time.monotonic()
            left = (self.total_steps - step) * event.examples / self.rate
            line = say("run.step", step=step, total=self.total_steps, facts=facts, eta=_clock(left))
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _phase_progress(self, event: PhaseProgress) -> None:
        text = say(f"phase.{event.phase}")
        if not self.console.is_terminal:
            if self._phase != event.phase:
                self.console.print(f"{text} ({event.total})", highlight=False, markup=False, soft_wrap=True)
            self._phase = event.phase
            return
        if self._phase != event.phase:
            self.progress.start()
            self._phase_task = self.progress.add_task(text, total=event.total, facts="")
            self._phase = event.phase
        self.progress.update(self._phase_task, completed=event.done)
        if event.done == event.total:
            self.progress.remove_task(self._phase_task)
            self._phase = None

    def close(self) -> None:
        self.progress.stop()


def _banner(event: SaveFailed, step: int, width: int) -> str:
    """What must not be overlooked among a run's lines."""
    told: dict[str, Any] = {
        "bar": "!" * min(width, BANNER),
        "step": step,
        "reason": event.reason,
        "free": event.free,
    }
    if event.retry_step is None:
        return say("run.save_failed_last", **told)
    return say("run.save_failed", **told, retry=event.retry_step)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _line(event: Event, step: int) -> str | None:
    match event:
        case Validated():
            key = "run.validated_best" if event.best else "run.validated"
            told = event.metrics.items()
            metrics = [say(f"run.metric.{name}", value=f"{value:.4g}") for name, value in told]
            return "  ".join([say(key, step=step, loss=f"{event.loss:.5f}"), *metrics])
        case Saved():
            return say("run.saved", step=step, checkpoint=event.checkpoint, export=event.export or "-")
        case Resumed():
            changed = [say("run.resumed_changed", change=change) for change in event.changed]
            return "\n".join([say("run.resumed", checkpoint=event.checkpoint, step=step), *changed])
        case RolledBack():
            shown = {"factor": f"{event.rate_factor:g}", "examples": ", ".join(event.examples)}
            return say(f"run.rolled_back.{event.cause}", **event.model_dump() | shown)
        case Previewed():
            answers = [f"  {printable(text, ANSWER)}" for text in event.texts]
            return "\n".join([say("run.previewed", step=step, count=len(event.files)), *answers])
        case Noted():
            return event.text
        case ControlTaken():
            return say("run.control", request=event.request)
        case Exported():
            return say(
                "run.exported",
                files=", ".join(event.files),
                layers=event.readback_layers,
                difference=f"{event.readback_difference:.2g}",
            )
    return None
