from __future__ import annotations

import pytest

from tests.families import tiny


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tiny.write_folder(tmp_path_factory.mktemp("folder") / "tiny")


@pytest.fixture
def model(folder):
    from tests.families.loaded import load

    return load(folder)
