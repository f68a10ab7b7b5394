"""Python and packages: present, and new enough."""

from __future__ import annotations

from lora_scripts.config.schema import RunConfig
from lora_scripts.core.packages import MINIMUM_PYTHON, older, requirements
from lora_scripts.core.problems import Problem
from lora_scripts.preflight.machine import Machine

OPTIONAL = {"bitsandbytes", "nvidia-ml-py"}
"""Judged where they are used: 8-bit optimizers, and what is known of the cards."""


def check_packages(machine: Machine, config: RunConfig) -> list[Problem]:
    problems: list[Problem] = []
    if machine.python < MINIMUM_PYTHON:
        problems.append(
            Problem("LS3001", {"version": _dotted(machine.python), "minimum": _dotted(MINIMUM_PYTHON)})
        )
    unused = OPTIONAL if config.logging.tensorboard else OPTIONAL | {"tensorboard"}
    needed = {name: lowest for name, lowest in requirements().items() if name not in unused}
    missing = [name for name in needed if machine.packages.get(name) is None]
    if missing:
        problems.append(Problem("LS3002", {"names": ", ".join(missing), "command": machine.setup_command}))
    for name, lowest in needed.items():
        have = machine.packages.get(name)
        if have is not None and older(have, lowest):
            told = {"name": name, "version": have, "minimum": lowest, "command": machine.setup_command}
            problems.append(Problem("LS3003", told))
    return problems


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
