"""Everything that an installation consists of is pinned, so that what is installed is what was tested."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import PackageNotFoundError, distribution

import pytest

from tests.architecture.sources import ROOT

PIN = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)(?:\s*;\s*(.+))?$")


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins() -> dict[str, str]:
    found = {}
    for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            match = PIN.match(line)
            assert match, f"not an exact version: {line}"
            found[canonical(match[1])] = match[2]
    return found


def needed() -> set[str]:
    """The project's own requirements, the extras among them, and all that these need here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    waiting = [*project["dependencies"], *(r for rs in project["optional-dependencies"].values() for r in rs)]
    found: set[str] = set()
    while waiting:
        text = waiting.pop()
        marker = text.partition(";")[2]
        if "extra" in marker or not _holds(marker):
            continue
        name = canonical(re.match(r"[A-Za-z0-9._-]+", text)[0])
        if name in found:
            continue
        try:
            more = distribution(name).requires or []
        except PackageNotFoundError:
            continue
        found.add(name)
        waiting += more
    return found


def _holds(marker: str) -> bool:
    from packaging.markers import Marker

    return not marker.strip() or Marker(marker).evaluate()


def test_every_package_of_an_installation_is_pinned():
    missing = needed() - pins().keys()
    graphics = {name for name in missing if name.startswith(("nvidia-", "cuda-")) or name == "triton"}
    assert missing - graphics == set(), "torch itself pins what it brings for cards"


def test_what_is_installed_here_is_what_is_pinned():
    other = {}
    for name, version in pins().items():
        try:
            here = distribution(name).version
        except PackageNotFoundError:
            continue
        if here.partition("+")[0] != version.partition("+")[0]:
            other[name] = (here, version)
    if other:
        pytest.skip(f"not the pinned installation: {other}")
    assert len(pins()) > 50
