"""A small random Stable Diffusion 1.x. Each family has such a file: ``folder(path)`` and, where the family
takes one, ``single(path)`` write the same base in its two layouts."""

from __future__ import annotations

from pathlib import Path

from tests.families import tiny


def folder(path: Path) -> Path:
    return tiny.write_folder(path)


def single(path: Path) -> Path:
    return tiny.write_single(path)
