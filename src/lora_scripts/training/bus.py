"""Events go through one bus to everything that watches a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol

from lora_scripts.core.catalogue import render
from lora_scripts.core.events import Emit, Event, Noted
from lora_scripts.core.problems import Problem

from .failures import is_out_of_memory
from .state import TrainingState


class Listener(Protocol):
    """Watches a run. It is called after whole windows, and may ask for things through ``Control``."""

    def __call__(self, event: Event, step: int) -> None: ...

    def close(self) -> None: ...


class Tolerant:
    """A listener that only watches: a disk or a memory that refuses it is told once and does not end the
    run."""

    def __init__(self, listener: Listener, emit: Emit) -> None:
        self.listener = listener
        self.emit = emit
        self.told = False

    def __call__(self, event: Event, step: int) -> None:
        self.guarded(lambda: self.listener(event, step))

    def guarded(self, act: Callable[[], None]) -> None:
        """Something that the listener does beside events, under the same rule."""
        try:
            act()
        except OSError as error:
            self._tell("LS5007", reason=error.strerror or str(error))
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            self._tell("LS3904")

    def _tell(self, code: str, **told: str) -> None:
        if not self.told:
            self.told = True
            told["what"] = type(self.listener).__name__
            problem = Problem(code, told, severity="warning")
            self.emit(Noted(code=problem.code, text=render(problem)))

    def close(self) -> None:
        with suppress(OSError):
            self.listener.close()


class Bus:
    """Hands each event to the listeners in their order; an event may cause further ones."""

    def __init__(self, state: TrainingState) -> None:
        self.state = state
        self.listeners: list[Listener] = []

    def add(self, listeners: Sequence[Listener]) -> None:
        self.listeners.extend(listeners)

    def emit(self, event: Event) -> None:
        for listener in self.listeners:
            listener(event, self.state.step)

    def close(self) -> None:
        for listener in self.listeners:
            listener.close()
