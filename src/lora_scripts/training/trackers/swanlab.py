"""SwanLab. Offline runs lie in ``trackers/swanlab`` and are sent by ``swanlab sync``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ._base import Request


class SwanLab:
    def __init__(self, run: Any, folder: Path, offline: bool) -> None:
        self.run = run
        self.id: str = run.id
        self.address: str = str(folder) if offline else run.url

    def log(self, figures: Mapping[str, float], step: int) -> None:
        self.run.log(dict(figures), step=step)

    def picture(self, name: str, path: Path, step: int) -> None:
        import swanlab

        self.run.log({name: swanlab.Image(str(path))}, step=step)

    def finish(self, finished: bool) -> None:
        self.run.finish(state="success" if finished else "aborted")


def connect(request: Request) -> SwanLab:
    import swanlab
    from swanlab import Settings

    folder = request.folder / "swanlab"
    folder.mkdir(parents=True, exist_ok=True)
    probe = Settings.Probe(
        hardware=False, runtime=False, requirements=False, conda=False, git=False, monitor=False
    )
    run = swanlab.init(
        project=request.project,
        name=request.name,
        id=request.id,
        resume="never" if request.id is None or request.offline else "allow",
        log_dir=str(folder),
        mode="offline" if request.offline else None,
        config=dict(request.config),
        settings=Settings(interactive=False, probe=probe, terminal=Settings.Terminal(proxy_type="none")),
    )
    return SwanLab(run, folder, request.offline)
