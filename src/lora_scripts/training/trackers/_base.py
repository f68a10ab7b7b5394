"""What a tracker is: one file here for each, found by its name, that speaks to its own library.

Such a file has ``connect``. It imports the library inside, asks for nothing that the library would collect by
itself (console, code, environment, machine), and lets its exceptions through: who calls deals with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class Request:
    """A run to be followed. ``id``: what the tracker called it in an earlier attempt, which is to go on.
    ``config``: dotted keys. ``folder``: for the library's own files. ``offline``: nothing is to be sent."""

    project: str
    name: str
    config: Mapping[str, Any]
    folder: Path
    offline: bool
    id: str | None = None


class Tracker(Protocol):
    """``id`` is what ``Request`` is given when the run is resumed; ``address`` where a person looks."""

    id: str
    address: str

    def log(self, figures: Mapping[str, float], step: int) -> None: ...

    def picture(self, name: str, path: Path, step: int) -> None: ...

    def finish(self, finished: bool) -> None:
        """Sends what is left. ``finished``: the run came to its end."""
        ...


def connect(name: str, request: Request) -> Tracker:
    """Opens the run at the tracker ``name``. Raises whatever its library raises."""
    tracker: Tracker = import_module(f"{__package__}.{name}").connect(request)
    return tracker
