"""What happens in a run, as one typed union: the only thing that consoles, pages and searches read.

A line of ``events.jsonl`` is ``{"v", "seq", "run", "attempt", "time", "step", "type", "data"}``.
"""

from __future__ import annotations

import errno
import json
import math
import os
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

VERSION = 1


class Event(BaseModel):
    """Base of all events; a subclass's fields are the ``data`` of its line, its ``type`` the line's type."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    type: ClassVar[str]


class RunStarted(Event):
    type: ClassVar[str] = "run_started"
    name: str
    family: str
    device: str
    precision: str
    total_steps: int
    start_step: int
    task: str
    examples: int
    held_out: int
    adapter_modules: int
    adapter_parameters: int


class Resumed(Event):
    """``changed``: harmless differences from the attempt before, one sentence each."""

    type: ClassVar[str] = "resumed"
    checkpoint: str
    skipped_checkpoints: list[str]
    changed: list[str] = []


class PhaseProgress(Event):
    """A phase before or after the steps, such as decoding pictures; ``done == total`` ends it."""

    type: ClassVar[str] = "phase"
    phase: str
    done: int
    total: int


class StepDone(Event):
    """One window: ``loss`` is the weighted mean over it, ``skipped`` says that no update was made."""

    type: ClassVar[str] = "step"
    epoch: float
    loss: float | None
    learning_rates: dict[str, float]
    grad_norm: float | None
    skipped: bool
    seconds: float
    examples: int
    memory_gib: float


class RolledBack(Event):
    """The run went back from ``from_step`` to ``to_step`` and goes on from there in another way: what was
    told of steps above it is no part of it any more. ``cause``: ``not_finite`` or ``spike``; ``windows``: how
    many running went wrong; ``rate_factor``: what learning rates are now multiplied by; ``examples``: what
    was learnt in those windows, the first of them."""

    type: ClassVar[str] = "rolled_back"
    cause: str
    windows: int
    from_step: int
    to_step: int
    rate_factor: float
    examples: list[str]


class Validated(Event):
    """``metrics``: what people read beside the loss, such as ``perplexity`` and ``accuracy``."""

    type: ClassVar[str] = "validation"
    loss: float
    best: bool
    metrics: dict[str, float] = {}


class Saved(Event):
    type: ClassVar[str] = "saved"
    checkpoint: str
    export: str | None
    seconds: float


class SaveFailed(Event):
    """``free``: MiB left on the disk. ``retry_step``: when it is tried again, None where the run ends."""

    type: ClassVar[str] = "save_failed"
    reason: str
    free: int = 0
    retry_step: int | None = None


class Previewed(Event):
    """``files``: relative to the run's folder. ``texts``: a language model's answers, by prompt."""

    type: ClassVar[str] = "preview"
    files: list[str]
    texts: list[str] = []


class Noted(Event):
    """A warning or note during the run, as rendered text with its code."""

    type: ClassVar[str] = "note"
    code: str
    text: str


class ControlTaken(Event):
    type: ClassVar[str] = "control"
    request: str


class Exported(Event):
    type: ClassVar[str] = "exported"
    files: list[str]
    readback_layers: int
    readback_difference: float


class RunEnded(Event):
    """``status``: finished, stopped, interrupted or failed."""

    type: ClassVar[str] = "run_ended"
    status: str
    exit_code: int


EVENTS: dict[str, type[Event]] = {
    kind.type: kind
    for kind in (
        RunStarted, Resumed, PhaseProgress, StepDone, RolledBack, Validated, Saved, SaveFailed, Previewed,
        Noted, ControlTaken, Exported, RunEnded,
    )
}  # fmt: skip


def json_schema() -> dict[str, Any]:
    """The JSON schema of one line of ``events.jsonl``."""
    line: dict[str, Any] = {
        "v": {"const": VERSION},
        "seq": {"type": "integer"},
        "run": {"type": "string"},
        "attempt": {"type": "integer"},
        "time": {"type": "number"},
        "step": {"type": "integer"},
    }
    kinds = [
        {
            "type": "object",
            "required": [*line, "type", "data"],
            "properties": {**line, "type": {"const": name}, "data": kind.model_json_schema()},
        }
        for name, kind in EVENTS.items()
    ]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "oneOf": kinds}


class EventLog:
    """Appends events to ``events.jsonl``; a resume goes on behind the last whole line as a new attempt."""

    def __init__(self, path: Path) -> None:
        self.path = path
        _cut_torn_line(path)
        last: dict[str, Any] = next(reversed(list(_lines(path))), {})
        self.run: str = last.get("run") or uuid.uuid4().hex
        self.attempt: int = last.get("attempt", 0) + 1
        self._seq: int = last.get("seq", -1) + 1
        path.parent.mkdir(parents=True, exist_ok=True)
        self._open()

    def _open(self) -> None:
        self._handle = open(self.path, "ab", buffering=0)  # noqa: SIM115 - open as long as the run

    def write(self, event: Event, step: int) -> None:
        """Adds one line, whole or, where the disk refuses it (``OSError``), not at all."""
        line = {
            "v": VERSION, "seq": self._seq, "run": self.run, "attempt": self.attempt,
            "time": round(time.time(), 3), "step": step, "type": event.type, "data": event.model_dump(),
        }  # fmt: skip
        data = (json.dumps(_finite(line), ensure_ascii=False, allow_nan=False) + "\n").encode()
        if not os.path.exists(self.path):  # removed with its folder: what is written on goes nowhere
            self._handle.close()
            self._open()
        end = self._handle.seek(0, os.SEEK_END)  # where a line that did not fit was cut, not where it ended
        try:
            if self._handle.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            self._handle.truncate(end)
            raise
        self._seq += 1

    def close(self) -> None:
        self._handle.close()


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_finite(child) for child in value]
    return value


def _cut_torn_line(path: Path) -> None:
    """A process killed while writing leaves half a line; it is cut, nothing else."""
    if not path.exists():
        return
    with open(path, "rb+") as handle:
        data = handle.read()
        handle.truncate(data.rfind(b"\n") + 1)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    with open(path, encoding="utf-8") as handle:
        for text in handle:
            if text.endswith("\n"):
                yield json.loads(text)


def read_events(path: Path) -> list[dict[str, Any]]:
    """Lines of a log as a reader should see them: steps that are repeated later are dropped.

    An attempt that starts at step S (its ``run_started`` line), or a rollback to S, replaces earlier lines
    with a step above S.
    """
    back = {RunStarted.type: "start_step", RolledBack.type: "to_step"}
    kept: list[dict[str, Any]] = []
    for line in _lines(path):
        if line["type"] in back:
            start = line["data"][back[line["type"]]]
            kept = [earlier for earlier in kept if earlier["step"] <= start]
        kept.append(line)
    return kept


Emit = Callable[[Event], None]
