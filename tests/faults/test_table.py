"""The table of docs/reliability.md and the suite name each other, in both languages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ("reliability.md", "reliability.zh-CN.md")
ROWS = range(1, 49)
WITHOUT_A_TEST = {38, 40, 41, 42, 43}
"""There is no web page and no search."""


def rows(page: str) -> dict[int, str]:
    """Row number -> the test that the page links to."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    found = re.findall(r"^\| (\d+) \|.*?\]\(\.\./(tests/[a-z0-9_/]+\.py)\)", text, re.MULTILINE)
    return {int(number): test for number, test in found}


@pytest.mark.parametrize("page", PAGES)
def test_every_fault_has_a_row_with_a_test_that_exists(page):
    found = rows(page)
    assert set(found) == set(ROWS) - WITHOUT_A_TEST
    for test in found.values():
        assert re.search(r"^def test_|^Test", (ROOT / test).read_text(encoding="utf-8"), re.MULTILINE), test


def test_every_test_of_the_suite_is_in_the_table_under_its_number():
    suite = {
        int(path.name[5:7]): f"tests/faults/{path.name}"
        for path in Path(__file__).parent.glob("test_[0-9]*.py")
    }
    found = rows(PAGES[0])
    assert {number: found.get(number) for number in suite} == suite
    assert found == rows(PAGES[1])
