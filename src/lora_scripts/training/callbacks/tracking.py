"""Trackers as listeners: what happens is handed to a thread, so that a slow server holds nothing up."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from queue import Full, Queue
from threading import Event as Flag
from threading import Thread
from typing import Any

from lora_scripts.config.schema import RunConfig, flatten
from lora_scripts.core.catalogue import render, say
from lora_scripts.core.events import Emit, Event, Noted, Previewed, StepDone
from lora_scripts.core.files import write_atomic
from lora_scripts.core.paths import RunFolder
from lora_scripts.core.problems import Problem
from lora_scripts.core.secrets import without_secrets
from lora_scripts.training.trackers._base import Request, Tracker, connect

WAITING = 20_000
"""Things that may wait to be sent: above it the tracker is too slow to be of use."""
ANYTHING = (Exception, SystemExit)
"""What a tracker's library may raise: none of it may end a run that it only watches."""
PATIENCE = 60.0
"""Seconds that a run waits for a tracker to answer at its start, and to take what is left at its end."""
Act = Callable[[Tracker], None]


class Tracking:
    """One tracker. The first thing that goes wrong with it is told (LS7200), and nothing is sent after it.

    All its library's work is done on a thread of its own, connecting included: libraries take signals for
    themselves where they are called on the main one.
    """

    def __init__(self, name: str, request: Request, root: Path, emit: Emit, every_steps: int) -> None:
        self.name = name
        self.root = root
        self.emit = emit
        self.every_steps = every_steps
        self.tracker: Tracker | None = None
        self.failure: str | None = None
        self.told = False
        self.queue: Queue[Act | None] = Queue(WAITING)
        self.connected = Flag()
        self.thread = Thread(target=self._work, args=(request,), name=f"tracker {name}", daemon=True)
        self.thread.start()
        if not self.connected.wait(PATIENCE):
            self.failure = say("tracker.unfinished", seconds=int(PATIENCE))
        self._tell()

    def __call__(self, event: Event, step: int) -> None:
        if isinstance(event, Noted):  # our own, among others
            return
        self._tell()
        found = {name: value for name, value in self._figures(event, step).items() if math.isfinite(value)}
        if found:
            self._hand_over(lambda tracker: tracker.log(found, step))
        if isinstance(event, Previewed):
            for number, file in enumerate(name for name in event.files if name.endswith(".png")):
                self._picture(f"preview/{number}", self.root / file, step)

    def _picture(self, name: str, path: Path, step: int) -> None:
        self._hand_over(lambda tracker: tracker.picture(name, path, step))

    def _figures(self, event: Event, step: int) -> Mapping[str, float]:
        from .figures import figures

        return {} if isinstance(event, StepDone) and step % self.every_steps else figures(event)

    def _hand_over(self, act: Act | None) -> None:
        if self.failure is not None:
            return
        try:
            self.queue.put_nowait(act)
        except Full:
            self.failure = say("tracker.slow", count=WAITING)

    def _work(self, request: Request) -> None:
        try:
            self.tracker = connect(self.name, request)
            self.connected.set()
            while (act := self.queue.get()) is not None:
                act(self.tracker)
        except ANYTHING as error:
            self.failure = reason(error)
            self.connected.set()

    def _tell(self) -> None:
        if self.failure is not None and not self.told:
            self.told = True
            self.emit(note(self.name, self.failure))

    def finish(self, finished: bool) -> None:
        """Sends what is left, within ``PATIENCE``, and tells what failed. To be called once, before the run
        has ended for everything else that watches."""
        self._hand_over(lambda tracker: tracker.finish(finished))
        if self.failure is None:
            self._hand_over(None)
            self.thread.join(PATIENCE)
            if self.thread.is_alive():
                self.failure = say("tracker.unfinished", seconds=int(PATIENCE))
        self._tell()

    def close(self) -> None:
        pass


def reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [""]
    return without_secrets(f"{type(error).__name__}: {lines[0]}"[:300])


def note(name: str, why: str) -> Noted:
    problem = Problem("LS7200", {"tracker": name, "reason": why}, severity="warning")
    return Noted(code=problem.code, text=render(problem))


def open_trackers(
    config: RunConfig, values: Mapping[str, Any], folder: RunFolder, emit: Emit
) -> list[Tracking]:
    """A listener for each of ``logging.trackers`` that answers; who does not is told and left out.

    ``values``: the configuration to show. What each tracker calls the run is kept in ``trackers.json``, so
    that a resumed run goes on there too.
    """
    ids = _kept(folder.tracker_ids)
    found = []
    for name in config.logging.trackers:
        request = Request(
            project=config.logging.tracker_project,
            name=config.logging.tracker_run_name or config.name,
            config=flatten(dict(values)),
            folder=folder.tracker_files,
            offline=config.logging.tracker_offline,
            id=ids.get(name),
        )
        tracking = Tracking(name, request, folder.root, emit, config.logging.every_steps)
        if (tracker := tracking.tracker) is None:
            continue
        ids[name] = tracker.id
        emit(Noted(code="", text=say("tracker.open", tracker=name, address=without_secrets(tracker.address))))
        found.append(tracking)
    if found:
        with suppress(OSError):  # a full disk: a resumed run would then be shown as one of its own
            write_atomic(folder.tracker_ids, json.dumps(ids, indent=1, sort_keys=True) + "\n")
    return found


def _kept(path: Path) -> dict[str, str]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}
