"""Small pictures, and captioners that say what they are told to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from lora_scripts.labeling import choose, label
from lora_scripts.labeling._captioner import Words
from lora_scripts.labeling.choose import Choice


class Spoken:
    """Says ``words(picture)``, and remembers the sizes of batches and of pictures."""

    def __init__(self, words: Callable[[Image.Image], str], batch_size: int = 4) -> None:
        self.words, self.batch_size = words, batch_size
        self.batches: list[list[tuple[int, int]]] = []
        self.closed = 0

    @property
    def seen(self) -> int:
        return sum(map(len, self.batches))

    def describe(self, pictures: Sequence[Image.Image]) -> list[Words]:
        assert all(picture.mode == "RGB" for picture in pictures)
        self.batches.append([picture.size for picture in pictures])
        return [Words(self.words(picture)) for picture in pictures]

    def close(self) -> None:
        self.closed += 1


def colour_of(picture: Image.Image) -> str:
    """A caption that only this picture has: its colour."""
    return "a plain {:02x}{:02x}{:02x}".format(*picture.getpixel((0, 0)))


def draw(folder: Path, count: int, sizes=((32, 32), (48, 32), (32, 48))) -> dict[str, str]:
    """Pictures of one colour each; file name -> what ``colour_of`` says of it."""
    folder.mkdir(parents=True, exist_ok=True)
    said = {}
    for number in range(count):
        name = f"img{number:03d}.png"
        colour = (number % 256, 40 + number // 256, 200)
        Image.new("RGB", sizes[number % len(sizes)], colour).save(folder / name)
        said[name] = "a plain {:02x}{:02x}{:02x}".format(*colour)
    return said


@pytest.fixture
def captioner(monkeypatch) -> Spoken:
    """The captioner that every name stands for in this test."""
    spoken = Spoken(colour_of)
    file = SimpleNamespace(load=lambda asked: spoken, DEFAULT_MODEL=None)
    monkeypatch.setattr(choose, "module", lambda name: file)
    return spoken


@pytest.fixture
def job():
    """A job on a folder; anything else as keywords."""
    return lambda pictures, **more: label.Job(pictures, (Choice("spoken"),), **more)
