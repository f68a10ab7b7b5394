"""What the project needs of Python and of packages, and what is there. Reads metadata, imports nothing."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from functools import lru_cache
from importlib import metadata
from pathlib import Path

MINIMUM_PYTHON = (3, 11)
OPTIONAL = frozenset({"bitsandbytes", "nvidia-ml-py", "tensorboard"})
"""What a run can do without: 8-bit optimizers, figures about the cards, curves."""

TRACKERS: Mapping[str, tuple[str, str]] = {
    "wandb": ("wandb", "0.31"),
    "mlflow": ("mlflow", "3.0"),
    "comet": ("comet-ml", "3.47"),
    "clearml": ("clearml", "1.16"),
    "swanlab": ("swanlab", "0.6"),
    "trackio": ("trackio", "0.20"),
}
"""Name in ``logging.trackers`` -> distribution and lowest version; none of them comes with the project."""


@lru_cache
def requirements() -> Mapping[str, str]:
    """Distribution name -> lowest version that works, as the project declares it.

    The checkout's own declaration counts where there is one: what is installed may be of another day.
    """
    declared = Path(__file__).resolve().parents[3] / "pyproject.toml"
    if declared.is_file():
        lines = tomllib.loads(declared.read_text(encoding="utf-8"))["project"]["dependencies"]
    else:
        lines = [line for line in metadata.requires("lora-scripts") or [] if "extra ==" not in line]
    found = (re.match(r"([A-Za-z0-9._-]+)\s*>=\s*([0-9.]+)", line) for line in lines)
    return {match[1]: match[2] for match in found if match}


def installed_version(name: str) -> str | None:
    """The installed version of a distribution, None where it is absent."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def installed() -> dict[str, str | None]:
    return {name: installed_version(name) for name in requirements()}


def older(version: str, minimum: str) -> bool:
    """Whether ``version`` is below ``minimum`` by its numbers: ``2.13.0+cpu`` is not older than ``2.13``."""
    texts = (version.partition("+")[0], minimum)
    numbers = [[int(part) for part in re.findall(r"\d+", text)] for text in texts]
    length = max(map(len, numbers))
    first, second = (number + [0] * (length - len(number)) for number in numbers)
    return first < second


def insufficient(versions: Mapping[str, str | None]) -> list[str]:
    """Names of indispensable distributions that are missing from ``versions`` or too old there."""
    lowest = requirements()
    needed = {name: have for name, have in versions.items() if name in lowest.keys() - OPTIONAL}
    return [name for name, have in needed.items() if have is None or older(have, lowest[name])]
