"""The data sets of a picture run: what each folder is, and how its captions are worded."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...config.schema import DatasetEntry, RunConfig
from ...data.sample import Handling
from ...data.wording import Wording


@dataclass(frozen=True)
class PictureSet:
    """One folder of pictures. ``repeats``: where its sub-folders do not say it."""

    folder: Path
    metadata: Path | None
    repeats: int
    handling: Handling


def picture_sets(config: RunConfig) -> list[PictureSet]:
    """``train_data_dir``, unless an entry of ``datasets`` names it too, then the entries in their order."""
    home = _path(config.train_data_dir)
    listed = [os.path.abspath(_path(entry.path)) for entry in config.datasets]
    entries = list(config.datasets)
    if os.path.abspath(home) not in listed:
        entries.insert(0, DatasetEntry(path=config.train_data_dir))
    parts = _parts([_path(entry.path) for entry in entries])
    return [_of(config, entry, part) for entry, part in zip(entries, parts, strict=True)]


def held_out_set(config: RunConfig, folder: Path) -> PictureSet:
    """The folder of ``validation.data_dir``: its captions are worded as those at the top."""
    return PictureSet(folder, None, 1, _handling(config, DatasetEntry(path=str(folder)), ""))


def _of(config: RunConfig, entry: DatasetEntry, part: str) -> PictureSet:
    same = os.path.abspath(_path(entry.path)) == os.path.abspath(_path(config.train_data_dir))
    metadata = entry.metadata_path or (config.metadata_path if same else None)
    return PictureSet(
        _path(entry.path),
        _path(metadata) if metadata else None,
        entry.repeats or config.repeats,
        _handling(config, entry, part),
    )


def _handling(config: RunConfig, entry: DatasetEntry, part: str) -> Handling:
    """Words at the top are for what is taught, and so not put around captions of regularization pictures."""

    def own(key: str, *, inherited: bool = True) -> Any:
        value = getattr(entry, key)
        return getattr(config, key) if value is None and inherited else value

    words = not entry.regularization
    return Handling(
        wording=Wording(
            prefix=own("caption_prefix", inherited=words) or "",
            suffix=own("caption_suffix", inherited=words) or "",
            trigger=own("trigger_word", inherited=words),
            shuffle=own("shuffle_caption"),
            keep=own("keep_tokens"),
            dropout=own("caption_dropout_rate"),
            variants=config.caption_variants,
        ),
        part=part,
        weight=config.prior_loss_weight if entry.regularization else 1.0,
        regularization=entry.regularization,
        flips=config.random_flip,
        crops=config.random_crop,
    )


def _parts(folders: list[Path]) -> list[str]:
    """What tells the folders apart in names: nothing for one, else its name and, where needed, a number."""
    if len(folders) == 1:
        return [""]
    seen: dict[str, int] = {}
    parts = []
    for folder in folders:
        name = Path(os.path.abspath(folder)).name
        seen[name] = seen.get(name, 0) + 1
        parts.append(f"{name}/" if seen[name] == 1 else f"{name}~{seen[name]}/")
    return parts


def _path(text: str) -> Path:
    return Path(text).expanduser()
