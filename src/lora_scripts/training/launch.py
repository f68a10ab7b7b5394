"""Starts a run's processes from one command, passes signals on, and lets none outlive the others."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from lora_scripts.core.language import language
from lora_scripts.core.problems import Problem, ProblemsError
from lora_scripts.core.secrets import without_hub_tokens

SOURCES = Path(__file__).resolve().parents[2]
GRACE = 30.0
"""Seconds that the others have to leave by themselves once one has."""
MARK = "LORA_SCRIPTS_LAUNCHED"
"""Set in processes that were started here: the plan has been shown."""


def count_processes(wanted: int | str) -> int:
    """``auto`` is every card, and one process on a machine without any."""
    if isinstance(wanted, int):
        return wanted
    import torch

    return max(1, torch.cuda.device_count())


def run_processes(count: int, arguments: Sequence[str]) -> int:
    """``lora-scripts ARGUMENTS`` in ``count`` processes; the exit code is the first one's. What they need
    has been downloaded by then, so none gets a hub's token.

    Raises ProblemsError LS7002 where another one died first.
    """
    port = _free_port()
    threads = max(1, (os.cpu_count() or 1) // count)
    children = []
    for rank in range(count):
        own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": port}
        environment = {
            "OMP_NUM_THREADS": str(threads),
            **without_hub_tokens(os.environ),
            **{name: str(value) for name, value in own.items()},
            "MASTER_ADDR": "127.0.0.1",
            "PYTHONPATH": os.pathsep.join(filter(None, (str(SOURCES), os.environ.get("PYTHONPATH")))),
            "LORA_SCRIPTS_LANG": language(),
            MARK: "1",
        }
        command = [sys.executable, "-m", "lora_scripts.cli.main", *arguments]
        children.append(subprocess.Popen(command, env=environment))  # noqa: S603 - our own command line

    def forward(number: int, frame: FrameType | None) -> None:
        for child in children:
            if child.poll() is None:
                child.send_signal(number)

    before = {
        number: signal.signal(number, forward if number != signal.SIGINT else signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        return _wait(children)
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
                child.wait()
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(children: Sequence[subprocess.Popen[bytes]]) -> int:
    first, others = children[0], children[1:]
    while first.poll() is None:
        dead = [rank for rank, child in enumerate(others, 1) if child.poll() not in (None, 0, 130, 143)]
        if dead:
            _leave(first)
            code = others[dead[0] - 1].returncode
            if first.returncode not in (0, 130, 143, code):  # of one code, they left for one reason
                told = {"rank": dead[0], "code": code}
                raise ProblemsError(Problem("LS7002", told))
            break
        time.sleep(0.1)
    for child in others:
        _leave(child)
    return first.returncode


def _leave(child: subprocess.Popen[bytes]) -> None:
    try:
        child.wait(GRACE)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
