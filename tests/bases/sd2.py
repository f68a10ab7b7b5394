"""A small random Stable Diffusion 2.x that predicts v."""

from __future__ import annotations

from pathlib import Path

from tests.families import tiny


def folder(path: Path) -> Path:
    return tiny.write_folder(path, tiny.parts(second=True), prediction_type="v_prediction")


def single(path: Path) -> Path:
    return tiny.write_single(path, tiny.parts(second=True), markers=("v_pred",))
