"""Every code and sentence of the data room exists in both languages, with the same blanks to fill in."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lora_scripts.core.catalogue import codes, entry, say_keys

SOURCE = Path(__file__).parents[2] / "src" / "lora_scripts"
FILES = [*(SOURCE / "data").glob("*.py"), SOURCE / "preflight" / "checks" / "dataset.py"]
OURS = [code for code in codes() if code.startswith(("LS20", "LS21"))]


def test_the_codes_in_use_are_the_codes_in_the_catalogue() -> None:
    used = {code for file in FILES for code in re.findall(r"LS2[01]\d{2}", file.read_text(encoding="utf-8"))}
    assert used == set(OURS)


@pytest.mark.parametrize("code", OURS)
def test_both_languages_fill_in_the_same(code: str) -> None:
    for part in ("message", "fix"):
        blanks = [set(re.findall(r"\{(\w+)\}", entry(code, lang)[part])) for lang in ("en", "zh")]
        assert blanks[0] == blanks[1]
    assert all(entry(code, "zh")[part] for part in ("cause", "example"))
    if "Invalid format" in entry(code, "en")["message"]:
        assert entry(code, "zh")["message"].startswith("Line {line}: Invalid format: ")


def test_both_languages_say_the_same_things() -> None:
    english, chinese = ({key for key in say_keys(lang) if key.startswith("data.")} for lang in ("en", "zh"))
    assert english == chinese
