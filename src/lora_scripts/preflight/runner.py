"""All checks of a configuration against the machine, in the order in which a user mends things."""

from __future__ import annotations

from collections.abc import Callable

from lora_scripts.config.schema import RunConfig
from lora_scripts.core.problems import Problem

from .checks.hardware import check_hardware
from .checks.packages import check_packages
from .checks.paths import check_paths
from .machine import Machine

Check = Callable[[Machine, RunConfig], list[Problem]]
CHECKS: tuple[Check, ...] = (check_packages, check_hardware, check_paths)


def run_checks(machine: Machine, config: RunConfig, checks: tuple[Check, ...] = CHECKS) -> list[Problem]:
    """Everything that is wrong, warnings included, whatever else is wrong too. Imports no torch."""
    return [problem for check in checks for problem in check(machine, config)]
