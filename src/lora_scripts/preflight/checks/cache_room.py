"""How much room the cache of a picture run takes, before anything of it is computed."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...config.schema import RunConfig
from ...core.paths import cache_folder
from ...core.problems import Location, Problem
from ...data.columns import Known
from ...data.samples import Samples
from ...families._base import ImageDescription
from ..machine import Machine, free_disk

PIECE = 75
"""Tokens of a caption that an encoder reads at once, beside its start and end."""
MIB = 2**20
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True)
class CacheRoom:
    """``folder`` will hold ``latents`` different pictures (sizes and sides counted) and ``texts`` different
    captions in ``size`` bytes, if none of them is there yet; ``free`` bytes are left on its disk."""

    folder: Path
    latents: int
    texts: int
    size: int
    free: int


def cache_room(
    machine: Machine,
    config: RunConfig,
    description: ImageDescription,
    samples: Samples,
    tokens_of: Callable[[str], int] | None = None,
) -> CacheRoom:
    """Counts every form that is kept: see ``families._stages`` for what each of them holds. ``tokens_of``:
    how many tokens of a caption are kept, where that is not the same for all."""
    usual = PIECE * (config.max_caption_tokens // PIECE) + 2
    texts = Known()
    if not config.train_text_encoder:
        for written, handling in samples.captions():
            for caption in handling.captions(written):
                texts.add(caption)
    tokens = sum(map(tokens_of, texts)) if tokens_of else usual * len(texts)
    # What is cut anew at each draw is not kept.
    pictures, area = (0, 0) if config.random_crop else _different(samples, samples.hashes)
    masked = 0 if config.random_crop or config.loss_mask == "none" else _different(samples, samples.masks)[1]
    cell = description.latent_factor**2
    numbers = 2 * description.latent_channels * (area // cell) + tokens * description.text_width
    folder = cache_folder(config.cache_dir)
    size = numbers * _bytes_of_number(machine, config) + 4 * (masked // cell)
    return CacheRoom(folder, pictures, len(texts), size, machine.free_disk(folder))


def _different(samples: Samples, contents: np.ndarray) -> tuple[int, int]:
    """How many different forms there are of ``contents`` (one for each sample), places and sides counted, and
    their pixels."""
    _, content = np.unique(contents, return_inverse=True)
    kinds, placed = np.unique(samples.placements, axis=0, return_inverse=True)
    form = content.astype(np.int64) * len(kinds) + placed.reshape(-1)
    different = np.unique(np.concatenate([2 * form, 2 * form[samples.mirrored] + 1]))
    shown = kinds[different // 2 % max(1, len(kinds))].astype(np.int64)
    return len(different), int((shown[:, 0] * shown[:, 1]).sum())


def _bytes_of_number(machine: Machine, config: RunConfig) -> int:
    """Halves are kept in two bytes. What ``auto`` comes to on a processor is known later: four, at most."""
    half = config.mixed_precision in ("fp16", "bf16") or (
        config.mixed_precision == "auto" and bool(machine.gpus)
    )
    return 2 if half else 4


def not_written(folder: Path, error: OSError, needed: int) -> Problem:
    """What is said of a cache that the disk refuses: LS3021 where it has no room for ``needed`` bytes more,
    LS3952 for any other reason."""
    where = Location(str(folder))
    if error.errno not in FULL:
        return Problem("LS3952", {"path": str(folder), "reason": error.strerror or str(error)}, where)
    told = {"path": str(folder), "needed": needed // MIB + 1, "free": free_disk(folder) // MIB}
    return Problem("LS3021", told, where)


def check_room(room: CacheRoom) -> list[Problem]:
    """LS3021 where the disk cannot take it, counted without what the folder holds already."""
    if room.size <= room.free:
        return []
    held = sum(path.stat().st_size for path in room.folder.glob("*/*.safetensors"))
    if room.size <= room.free + held:
        return []
    told = {"path": str(room.folder), "needed": room.size // MIB, "free": room.free // MIB}
    return [Problem("LS3021", told, Location(str(room.folder)))]
