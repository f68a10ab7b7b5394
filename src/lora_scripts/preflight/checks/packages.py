"""Python and packages: present, and new enough."""

from __future__ import annotations

import sys

from lora_scripts.config.schema import RunConfig
from lora_scripts.core.packages import MINIMUM_PYTHON, OPTIONAL, TRACKERS, older, requirements
from lora_scripts.core.problems import Problem
from lora_scripts.preflight.machine import Machine


def check_packages(machine: Machine, config: RunConfig) -> list[Problem]:
    problems: list[Problem] = []
    if machine.python < MINIMUM_PYTHON:
        problems.append(
            Problem("LS3001", {"version": _dotted(machine.python), "minimum": _dotted(MINIMUM_PYTHON)})
        )
    # bitsandbytes is judged with the cards, for its kernels must fit them; knowing cards is never a must.
    unused = OPTIONAL - {"tensorboard"} if config.logging.tensorboard else OPTIONAL
    needed = {name: lowest for name, lowest in requirements().items() if name not in unused}
    missing = [name for name in needed if machine.packages.get(name) is None]
    if missing:
        problems.append(Problem("LS3002", {"names": ", ".join(missing), "command": machine.setup_command}))
    for name, lowest in needed.items():
        have = machine.packages.get(name)
        if have is not None and older(have, lowest):
            told = {"name": name, "version": have, "minimum": lowest, "command": machine.setup_command}
            problems.append(Problem("LS3003", told))
    return problems + _trackers(machine, config)


def _trackers(machine: Machine, config: RunConfig) -> list[Problem]:
    """Libraries of the trackers that the configuration names: none of them comes with the project."""
    problems = []
    for tracker in dict.fromkeys(config.logging.trackers):
        name, lowest = TRACKERS[tracker]
        have = machine.packages.get(name)
        if have is None or older(have, lowest):
            told = {"tracker": tracker, "minimum": f"{name}>={lowest}", "found": have or "-"}
            problems.append(Problem("LS3020", told | {"python": sys.executable}))
    return problems


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
