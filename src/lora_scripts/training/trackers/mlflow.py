"""MLflow. Its store is where ``MLFLOW_TRACKING_URI`` says; offline it is a folder, ``trackers/mlruns``."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ._base import Request

BATCH, LONGEST = 100, 500
"""What its servers take at once, and how long a parameter's value may be."""


class Mlflow:
    def __init__(self, client: Any, run: Any) -> None:
        self.client = client
        self.id: str = run.info.run_id
        self.address: str = client.tracking_uri

    def log(self, figures: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self.client.log_batch(self.id, [Metric(key, value, now, step) for key, value in figures.items()])

    def picture(self, name: str, path: Path, step: int) -> None:
        self.client.log_artifact(self.id, str(path), f"{name}/step-{step:06d}")

    def finish(self, finished: bool) -> None:
        self.client.set_terminated(self.id, "FINISHED" if finished else "KILLED")


def connect(request: Request) -> Mlflow:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    if request.offline:
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow import MlflowClient
    from mlflow.entities import Param

    store = request.folder / "mlruns"
    if request.offline:
        store.mkdir(parents=True, exist_ok=True)
    client = MlflowClient(tracking_uri=store.absolute().as_uri() if request.offline else None)
    if request.id is not None:
        client.update_run(request.id, status="RUNNING")
        return Mlflow(client, client.get_run(request.id))
    found = client.get_experiment_by_name(request.project)
    experiment = found.experiment_id if found else client.create_experiment(request.project)
    run = client.create_run(experiment, run_name=request.name)
    said = [Param(key, str(value)[:LONGEST]) for key, value in request.config.items()]
    for start in range(0, len(said), BATCH):
        client.log_batch(run.info.run_id, params=said[start : start + BATCH])
    return Mlflow(client, run)
