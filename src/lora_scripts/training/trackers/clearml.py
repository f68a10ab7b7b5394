"""ClearML. Offline runs lie in its own cache, each attempt by itself; ``Task.import_offline_session`` sends
them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ._base import Request


class ClearMl:
    def __init__(self, task: Any, offline: bool) -> None:
        self.task = task
        self.id: str = task.id
        self.address: str = str(task.get_offline_mode_folder() if offline else task.get_output_log_web_page())

    def log(self, figures: Mapping[str, float], step: int) -> None:
        report = self.task.get_logger().report_scalar
        for name, value in figures.items():
            title, _, series = name.partition("/")
            report(title, series, value, step)

    def picture(self, name: str, path: Path, step: int) -> None:
        title, _, series = name.partition("/")
        self.task.get_logger().report_image(title, series, step, local_path=str(path))

    def finish(self, finished: bool) -> None:
        if not finished:
            self.task.mark_stopped()
        self.task.close()


def connect(request: Request) -> ClearMl:
    from clearml import Task

    if request.offline:
        Task.set_offline(offline_mode=True)
    task = Task.init(
        project_name=request.project,
        task_name=request.name,
        reuse_last_task_id=False if request.offline else request.id or False,
        # no offset: steps are counted by the run itself, and those that it repeats fall onto the same points
        continue_last_task=0 if request.id and not request.offline else False,
        auto_connect_arg_parser=False,
        auto_connect_frameworks={"detect_repository": False, "*": False},
        auto_resource_monitoring=False,
        auto_connect_streams=False,
    )
    task.connect(dict(request.config), name="config")
    return ClearMl(task, request.offline)
