"""Pages that are made from the program are what the program would make today."""

from __future__ import annotations

import importlib.util

import pytest

from tests.architecture.sources import ROOT

spec = importlib.util.spec_from_file_location("write_reference", ROOT / "scripts" / "write_reference.py")
assert spec is not None
assert spec.loader is not None
write_reference = importlib.util.module_from_spec(spec)
spec.loader.exec_module(write_reference)


@pytest.mark.parametrize(("name", "text"), write_reference.pages().items(), ids=list(write_reference.pages()))
def test_a_generated_page_is_up_to_date(name, text):
    assert (ROOT / name).read_text(encoding="utf-8") == text, "run `make docs`"
