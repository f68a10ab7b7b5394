"""One tiny base for all tests of this folder, in its two layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.families import tiny


@pytest.fixture(scope="session")
def tiny_parts() -> dict[str, Any]:
    return tiny.parts()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_parts: dict[str, Any]) -> Path:
    return tiny.write_folder(tmp_path_factory.mktemp("folder") / "tiny", tiny_parts)


@pytest.fixture(scope="session")
def single(tmp_path_factory: pytest.TempPathFactory, tiny_parts: dict[str, Any]) -> Path:
    return tiny.write_single(tmp_path_factory.mktemp("single") / "tiny.safetensors", tiny_parts)
