"""Every code and sentence of the data room is used, and exists in both languages."""

from __future__ import annotations

import re
from pathlib import Path

from lora_scripts.core.catalogue import codes, entry, say_keys

SOURCE = Path(__file__).parents[2] / "src" / "lora_scripts"
FILES = [*(SOURCE / "data").glob("*.py"), SOURCE / "preflight" / "checks" / "dataset.py"]
OURS = [code for code in codes() if code.startswith(("LS20", "LS21"))]


def test_the_codes_in_use_are_the_codes_in_the_catalogue() -> None:
    used = {code for file in FILES for code in re.findall(r"LS2[01]\d{2}", file.read_text(encoding="utf-8"))}
    assert used == set(OURS)


def test_what_a_program_looks_for_is_said_alike_in_both_languages() -> None:
    found = [code for code in OURS if "Invalid format" in entry(code, "en")["message"]]
    assert found
    for code in found:
        assert entry(code, "zh")["message"].startswith("Line {line}: Invalid format: "), code


def test_both_languages_say_the_same_things() -> None:
    english, chinese = ({key for key in say_keys(lang) if key.startswith("data.")} for lang in ("en", "zh"))
    assert english == chinese
