"""Weights & Biases. Offline runs lie in ``trackers/wandb`` and are sent by ``wandb sync``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ._base import Request


class Wandb:
    def __init__(self, run: Any, folder: Path, offline: bool) -> None:
        self.run = run
        self.id: str = run.id
        self.address: str = str(folder) if offline else run.url or ""

    def log(self, figures: Mapping[str, float], step: int) -> None:
        self.run.log({**figures, "step": step})

    def picture(self, name: str, path: Path, step: int) -> None:
        import wandb

        self.run.log({name: wandb.Image(str(path)), "step": step})

    def finish(self, finished: bool) -> None:
        self.run.finish(exit_code=0 if finished else 1)


def connect(request: Request) -> Wandb:
    """Raises LookupError where nobody is logged in: the library itself would ask in the terminal."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    offline = request.offline or os.environ.get("WANDB_MODE", "online") != "online"
    if not offline and not wandb.login(prompt=False):
        raise LookupError("wandb login")
    folder = request.folder / "wandb"
    folder.mkdir(parents=True, exist_ok=True)
    run = wandb.init(
        project=request.project,
        name=request.name,
        id=request.id,
        resume=None if request.id is None or offline else "allow",
        dir=str(request.folder),
        mode="offline" if request.offline else None,
        config=dict(request.config),
        settings=wandb.Settings(
            console="off", silent=True, save_code=False, disable_git=True, disable_code=True,
            x_disable_meta=True, x_disable_machine_info=True, x_disable_stats=True,
        ),
    )  # fmt: skip
    run.define_metric("step")
    # steps that a resumed run repeats have the same values and fall onto the same points
    run.define_metric("*", step_metric="step")
    return Wandb(run, folder, offline)
