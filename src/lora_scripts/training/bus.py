"""Events go through one bus to everything that watches a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from lora_scripts.core.events import Event

from .state import TrainingState


class Listener(Protocol):
    """Watches a run. It is called after whole windows, and may ask for things through ``Control``."""

    def __call__(self, event: Event, step: int) -> None: ...

    def close(self) -> None: ...


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
