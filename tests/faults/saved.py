"""What the faults of the save path are done to; made once for all of them."""

from __future__ import annotations

import pytest

from tests.torture import runs, saves

NAMES = ("checkpoint", "first checkpoint", "records", "export of pictures", "export of texts")


@pytest.fixture(scope="session")
def bases(tmp_path_factory):
    return runs.Makers(tmp_path_factory.mktemp("bases"))


@pytest.fixture(
    scope="session",
    params=[pytest.param(name, marks=pytest.mark.long if "export" in name else ()) for name in NAMES],
)
def save(request, bases):
    if request.param == "export of pictures":
        return saves.picture_export(bases.base(runs.IMAGES))
    if request.param == "export of texts":
        return saves.text_export(bases.base(runs.TEXTS))
    if request.param == "records":
        return saves.records_save()
    return saves.CheckpointSave(request.param, *(((), 1) if "first" in request.param else ()))
