"""How much room the cache of a picture run takes, before anything of it is computed."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from ...config.schema import RunConfig
from ...core.paths import cache_folder
from ...core.problems import Location, Problem
from ...data.columns import Known
from ...data.sample import Sample
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
    samples: Iterable[Sample],
    tokens_of: Callable[[str], int] | None = None,
) -> CacheRoom:
    """Counts every form that is kept: see ``families._stages`` for what each of them holds. ``tokens_of``:
    how many tokens of a caption are kept, where that is not the same for all."""
    area = masked = tokens = 0
    usual = PIECE * (config.max_caption_tokens // PIECE) + 2
    pictures, masks, texts = Known(), Known(), Known()
    for sample in samples:
        for form in sample.views():
            bucket = form.placement.bucket
            latents = bucket.width * bucket.height // description.latent_factor**2
            side = (form.placement, form.flipped)
            if not config.random_crop and _new(pictures, _mark(form.picture.sha256, *side)):
                area += latents
            mask = (form.mask.kind, form.mask.sha256) if form.mask else ("whole", "")
            if config.loss_mask != "none" and _new(masks, _mark(mask, *side)):
                masked += latents
            if not config.train_text_encoder and _new(texts, form.caption):
                tokens += tokens_of(form.caption) if tokens_of else usual
    numbers = 2 * description.latent_channels * area + tokens * description.text_width
    kept_masks = 0 if config.random_crop else 4 * masked
    folder = cache_folder(config.cache_dir)
    size = numbers * _bytes_of_number(machine, config) + kept_masks
    return CacheRoom(folder, len(pictures), len(texts), size, machine.free_disk(folder))


def _mark(*facts: object) -> str:
    return hashlib.blake2b(repr(facts).encode(), digest_size=16).hexdigest()


def _new(known: Known, text: str) -> bool:
    count = len(known)
    return known.add(text) == count


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
