"""The event log as a listener."""

from __future__ import annotations

from pathlib import Path

from lora_scripts.core.events import Event, EventLog, PhaseProgress, StepDone

PHASE_LINES = 20
"""At most so many lines for one phase, however many pictures it has."""


class JsonLines:
    """Writes each event to ``events.jsonl``; ``every_steps`` thins the steps only."""

    def __init__(self, path: Path, every_steps: int) -> None:
        self.log = EventLog(path)
        self.every_steps = every_steps

    def __call__(self, event: Event, step: int) -> None:
        if isinstance(event, StepDone) and step % self.every_steps and not event.skipped:
            return
        if isinstance(event, PhaseProgress) and event.done < event.total and event.done % _stride(event):
            return
        self.log.write(event, step)

    def close(self) -> None:
        self.log.close()


def _stride(event: PhaseProgress) -> int:
    return max(1, event.total // PHASE_LINES)
