"""A caption file beside each picture as output: ``img01.txt`` for ``img01.jpg``."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from lora_scripts.core.problems import Problem
from lora_scripts.data.captions import clean
from lora_scripts.data.folder import PictureFolder
from lora_scripts.data.manifest import caption_file_of
from lora_scripts.data.text_files import read_text


@dataclass
class CaptionFiles:
    """Captions are in their files as soon as they are put; those of one stem get ``img01.jpg.txt``."""

    folder: PictureFolder
    _shared: Counter[Path] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._shared.update(path.with_suffix("") for path in self.folder.pictures.values())

    @property
    def path(self) -> Path:
        return self.folder.root

    @property
    def beside(self) -> Path:
        return self.folder.root / ".captions"

    @property
    def strangers(self) -> list[str]:
        return []

    def read(self) -> tuple[dict[str, str], list[Problem]]:
        return captions_beside(self.folder)

    def put(self, name: str, caption: str) -> None:
        """Raises OSError where the file cannot be written."""
        picture = self.folder.pictures[name]
        target = caption_file_of(picture) or (
            picture.with_name(picture.name + ".txt")
            if self._shared[picture.with_suffix("")] > 1
            else picture.with_suffix(".txt")
        )
        temporary = target.with_name(f".tmp-{os.getpid()}-{target.name}")
        try:
            # Not waited for: should the power fail, the record still has these words.
            temporary.write_text(caption + "\n", encoding="utf-8", newline="\n")
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)

    def flush(self, *, last: bool = False) -> bool:
        return True


def captions_beside(folder: PictureFolder) -> tuple[dict[str, str], list[Problem]]:
    """What caption files say of a folder's pictures, and what is wrong with those files."""
    found: dict[str, str] = {}
    problems: list[Problem] = []
    for name, picture in folder.pictures.items():
        file = caption_file_of(picture)
        if file is None:
            continue
        text, wrong = read_text(file)
        problems += wrong
        if text is not None:
            found[name] = clean(text.replace("\0", " "))
    return found, problems
