"""Trackio, which keeps its runs on this computer unless the user has pointed it elsewhere."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ._base import Request


class Trackio:
    def __init__(self, run: Any, request: Request) -> None:
        self.run = run
        self.id: str = run.name
        self.address: str = f"trackio show --project {request.project}"

    def log(self, figures: Mapping[str, float], step: int) -> None:
        self.run.log(dict(figures), step=step)

    def picture(self, name: str, path: Path, step: int) -> None:
        import trackio

        self.run.log({name: trackio.Image(str(path))}, step=step)

    def finish(self, finished: bool) -> None:
        self.run.finish()


def connect(request: Request) -> Trackio:
    if request.offline:
        os.environ["TRACKIO_DIR"] = str(request.folder / "trackio")
    import trackio

    run = trackio.init(
        project=request.project,
        name=request.id or request.name,
        resume="allow" if request.id else "never",
        config=dict(request.config),
        auto_log_gpu=False,
        auto_log_cpu=False,
    )
    return Trackio(run, request)
