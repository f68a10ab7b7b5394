"""Captioners by name: ``blip``, or several whose words are put together, ``blip+wd14``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import TYPE_CHECKING

from lora_scripts.core.lookup import did_you_mean, plugin, plugin_names

from . import captioners
from ._captioner import Asked, Captioner, Tag, Words

if TYPE_CHECKING:
    from PIL.Image import Image

JOIN = "+"


class Unknown(Exception):  # noqa: N818 - a word of the command line
    """A captioner that does not exist, or a model for one that was not asked for."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(name)
        self.name, self.known, self.near = name, tuple(known), did_you_mean(name, known)


def names() -> list[str]:
    """Every captioner, as it is typed."""
    return [name.replace("_", "-") for name in plugin_names(captioners)]


def module(name: str) -> ModuleType:
    return plugin(captioners, name.replace("-", "_"))


@dataclass(frozen=True)
class Choice:
    """One captioner with the model that it shall use; ``model`` None is its own default."""

    name: str
    model: str | None = None

    @property
    def file(self) -> ModuleType:
        return module(self.name)

    @property
    def shown(self) -> str:
        model = self.model or self.file.DEFAULT_MODEL
        return f"{self.name} ({model})" if model else self.name

    @property
    def template(self) -> str | None:
        """How its captions are worded where the user does not say it: of captioners that look at nothing."""
        return getattr(self.file, "DEFAULT_TEMPLATE", None)


def choices(written: str, models: Sequence[str] = ()) -> list[Choice]:
    """Captioners in the order in which they speak.

    ``models``: one for each captioner in order, or ``NAME=MODEL`` for the one called so. Raises ``Unknown``.
    """
    known = names()
    wanted = [part.strip().lower().replace("_", "-") for part in written.split(JOIN)]
    for name in wanted:
        if name not in known:
            raise Unknown(name, known)
    of: dict[str, str] = {}
    for place, model in enumerate(models):
        name, equals, value = model.partition("=")
        if equals and name in known:
            if name not in wanted:
                raise Unknown(name, wanted)
            of[name] = value
        elif place < len(wanted):
            of[wanted[place]] = model
        else:
            raise Unknown(model, wanted)
    return [Choice(name, of.get(name)) for name in dict.fromkeys(wanted)]


class Together:
    """Several captioners as one: their sentences, then their tags, each tag once."""

    def __init__(self, parts: Sequence[Captioner]) -> None:
        self.parts = list(parts)
        self.batch_size = min(part.batch_size for part in parts)

    def describe(self, pictures: Sequence[Image]) -> list[Words]:
        said = [part.describe(pictures) for part in self.parts]
        return [together(words) for words in zip(*said, strict=True)]

    def close(self) -> None:
        for part in self.parts:
            part.close()


def together(said: Sequence[Words]) -> Words:
    """One picture's ``Words`` of several captioners as one."""
    sentences = [words.text.strip() for words in said if words.text.strip()]
    tags: dict[str, Tag] = {}
    for words in said:
        for tag in words.tags:
            tags.setdefault(tag.name.casefold(), tag)
    failed = next((words.problem for words in said if words.problem), None)
    return Words(", ".join(sentences), tuple(tags.values()), failed)


def load(chosen: Sequence[Choice], asked: Asked) -> Captioner:
    """Loads every captioner. Raises ``ProblemsError`` where one cannot be had, and closes the others."""
    loaded: list[Captioner] = []
    try:
        for choice in chosen:
            wants = replace(asked, model=choice.model or choice.file.DEFAULT_MODEL)
            loaded.append(choice.file.load(wants))
    except BaseException:
        for captioner in loaded:
            captioner.close()
        raise
    return loaded[0] if len(loaded) == 1 else Together(loaded)
