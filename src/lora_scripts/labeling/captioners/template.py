"""No model at all: the trigger word and what the folder is called, so that a first training can start."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .._captioner import Asked, Captioner, Words

if TYPE_CHECKING:
    from PIL.Image import Image

TITLE = "label.captioner.template"
DEFAULT_MODEL: str | None = None
DEFAULT_TEMPLATE = "{folder}"
"""How its captions are worded where the user does not say it; the trigger word comes in front anyway."""


class _Silent:
    batch_size = 64

    def describe(self, pictures: Sequence[Image]) -> list[Words]:
        return [Words() for _ in pictures]

    def close(self) -> None:
        """Holds nothing."""


def load(asked: Asked) -> Captioner:
    """Cannot fail: nothing is loaded."""
    return _Silent()
