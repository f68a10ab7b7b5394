"""What holds for every test: no network, one thread per process, English unless a test says otherwise."""

from __future__ import annotations

import gc
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tests run side by side; read when torch is imported
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["LORA_SCRIPTS_LANG"] = "en"

import pytest

from lora_scripts.core.catalogue import use_language


def pytest_collection_finish() -> None:
    """What is imported and collected by now stays to the end: the collector need not walk it each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _language_of_the_environment():
    yield
    use_language(None)
