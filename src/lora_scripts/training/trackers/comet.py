"""Comet. Offline runs lie in ``trackers/comet`` and are sent by ``comet upload``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ._base import Request


class Comet:
    def __init__(self, experiment: Any, folder: Path, offline: bool) -> None:
        self.experiment = experiment
        self.id: str = experiment.get_key()
        self.address: str = str(folder) if offline else experiment.url

    def log(self, figures: Mapping[str, float], step: int) -> None:
        self.experiment.log_metrics(dict(figures), step=step)

    def picture(self, name: str, path: Path, step: int) -> None:
        self.experiment.log_image(str(path), name=name, step=step)

    def finish(self, finished: bool) -> None:
        self.experiment.log_other("status", "finished" if finished else "interrupted")
        self.experiment.end()


def connect(request: Request) -> Comet:
    import comet_ml

    folder = request.folder / "comet"
    folder.mkdir(parents=True, exist_ok=True)
    experiment = comet_ml.start(
        project_name=request.project,
        experiment_key=request.id,
        mode="get_or_create",
        online=not request.offline,
        experiment_config=comet_ml.ExperimentConfig(
            name=request.name, offline_directory=str(folder), display_summary_level=0, log_code=False,
            log_graph=False, parse_args=False, log_git_metadata=False, log_git_patch=False,
            log_env_details=False, auto_output_logging=False, auto_param_logging=False,
            auto_metric_logging=False, auto_log_co2=False,
        ),
    )  # fmt: skip
    experiment.log_parameters(dict(request.config))
    return Comet(experiment, folder, request.offline)
