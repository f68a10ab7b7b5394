"""What an import has to say: values that mean something else here, and those that stayed behind."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from lora_scripts.core.catalogue import say

OFF: tuple[Any, ...] = (None, False, "", "0", "0.0", 0, 0.0, "None", "none", "False", "false", [], {})
"""How other trainers write that something is not used."""


@dataclass(frozen=True)
class Note:
    """``kind``: ``changed`` for what means something else or was decided, ``lost`` for what has no
    counterpart. ``key``: a ``say`` key, filled by ``params``."""

    kind: Literal["changed", "lost"]
    key: str
    params: dict[str, Any]

    @property
    def text(self) -> str:
        return say(self.key, **self.params)


@dataclass
class Given:
    """Another trainer's settings while they are read: what is taken is no longer to be told."""

    values: dict[str, Any]
    notes: list[Note] = field(default_factory=list)

    def take(self, *names: str) -> Any:
        """The first of ``names`` that is set to something, with all of them taken; else None."""
        found = [self.values.pop(name, None) for name in names]
        return next((value for value in found if not is_off(value)), None)

    def number(self, *names: str) -> float | None:
        """Likewise as a number; what is none is told."""
        for name in names:
            value = self.take(name)
            if value is None:
                continue
            try:
                return float(value[0] if isinstance(value, list) else value)
            except (TypeError, ValueError):
                self.lose(name, value)
        return None

    def whole(self, *names: str) -> int | None:
        found = self.number(*names)
        return None if found is None else round(found)

    def switch(self, *names: str) -> bool:
        return self.take(*names) is not None

    def change(self, key: str, /, **params: Any) -> None:
        self.notes.append(Note("changed", key, params))

    def lose(self, name: str, value: Any) -> None:
        self.notes.append(Note("lost", "import.lost", {"name": name, "value": short(value)}))

    def lose_rest(self, silent: Iterable[str]) -> None:
        """Tells whatever was not taken and is switched on."""
        quiet = set(silent)
        for name, value in self.values.items():
            if name not in quiet and not is_off(value):
                self.lose(name, value)
        self.values = {}


def is_off(value: Any) -> bool:
    return any(value is off or (type(value) is type(off) and value == off) for off in OFF)


def short(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    text = " ".join(text.split())
    return text if len(text) <= 60 else text[:57] + "..."


def pairs(value: Any) -> dict[str, str]:
    """``["a=1", "b=2"]`` or ``"a=1 b=2"`` as a table."""
    words = value.split() if isinstance(value, str) else [str(each) for each in value or []]
    return {name: rest for name, equals, rest in (word.partition("=") for word in words) if equals}
