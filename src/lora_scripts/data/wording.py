"""How a caption is worded each time it is learnt: fixed words around it, tags in another order, choices.

The versions of a caption are a function of the caption and the rules alone, so that runs share what text
encoders made of them. Which version a picture shows is drawn elsewhere (``sample.Sample.drawn``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..core.seeds import derive_seed
from .captions import clean, with_trigger
from .plan import shuffled

SEPARATOR = "|||"
"""Around what is shuffled, where a caption says so itself: fixed ||| shuffled ||| fixed (as sd-scripts)."""
DEFAULT_VARIANTS = 10
_TRIES = 8
"""Draws for each version that is wanted: short captions have fewer different ones."""
_CHOICE = re.compile(r"\{\{|\}\}|\{([^{}]*\|[^{}]*)\}")
_COMMA = re.compile(r"[,，]")


def has_choice(caption: str) -> bool:
    """Whether ``caption`` holds ``{a|b}``; ``{{`` and ``}}`` are plain braces."""
    return any(found[1] is not None for found in _CHOICE.finditer(caption))


def _chosen(caption: str, number: int | None) -> str:
    """``caption`` with each ``{a|b}`` decided: the first of each where ``number`` is None."""
    if not has_choice(caption):
        return caption
    place = 0

    def decide(found: re.Match[str]) -> str:
        nonlocal place
        if found[1] is None:
            return found[0][0]
        options = found[1].split("|")
        place += 1
        if number is None:
            return options[0].strip()
        return options[derive_seed(number, "choice", caption, place) % len(options)].strip()

    return clean(_CHOICE.sub(decide, caption))


def _tags(text: str) -> list[str]:
    return [tag for part in _COMMA.split(text) if (tag := part.strip())]


@dataclass(frozen=True)
class Wording:
    """Rules for the captions of one data set.

    ``keep``: tags at the front that are not shuffled. ``dropout``: how often nothing is said. ``variants``:
    versions of a caption that changes, at most; None is ``DEFAULT_VARIANTS``. Prefix, suffix and trigger word
    stay where they are put, whatever is shuffled.
    """

    prefix: str = ""
    suffix: str = ""
    trigger: str | None = None
    shuffle: bool = False
    keep: int = 0
    dropout: float = 0.0
    variants: int | None = None

    def plain(self, caption: str) -> str:
        """The one wording that validation uses and data sets are compared by: first choices, tags as they
        stand."""
        chosen = _chosen(caption, None)
        if self.shuffle and SEPARATOR in chosen:
            chosen = ", ".join(_tags(chosen.replace(SEPARATOR, ",")))
        return self._around(chosen)

    def changes(self, caption: str) -> bool:
        return self.shuffle or has_choice(caption)

    def versions(self, caption: str) -> tuple[str, ...]:
        """Every wording that ``caption`` is learnt with, each once; without the empty one of ``dropout``."""
        if not self.changes(caption):
            return (self.plain(caption),)
        wanted = self.variants or DEFAULT_VARIANTS
        found: dict[str, None] = {}
        for number in range(wanted * _TRIES):
            found.setdefault(self._version(caption, number))
            if len(found) == wanted:
                break
        return tuple(found)

    def _version(self, caption: str, number: int) -> str:
        chosen = _chosen(caption, number)
        if not self.shuffle:
            return self._around(chosen)
        first, middle, last = self._parts(chosen)
        order = shuffled(len(middle), derive_seed(number, "tags", caption))
        return self._around(", ".join([*first, *(middle[place] for place in order), *last]))

    def _parts(self, caption: str) -> tuple[list[str], list[str], list[str]]:
        """Tags that stay in front, that are shuffled, that stay behind."""
        if SEPARATOR in caption:
            first, _, rest = caption.partition(SEPARATOR)
            middle, _, last = rest.partition(SEPARATOR)
            return _tags(first), _tags(middle), _tags(last.replace(SEPARATOR, ","))
        tags = _tags(caption)
        return tags[: self.keep], tags[self.keep :], []

    def _around(self, caption: str) -> str:
        before, behind = clean(self.prefix), clean(self.suffix)
        text = f"{before} {caption}".strip() if before else caption
        if behind:
            text = f"{text}{'' if behind.startswith((',', '，')) else ' '}{behind}".strip()
        return with_trigger(text, self.trigger)


PLAIN = Wording()
