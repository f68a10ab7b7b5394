"""``lora-scripts families``: every family, what it supports, and a reason wherever it does not."""

from __future__ import annotations

import json

import pytest

from lora_scripts.cli import families
from lora_scripts.cli.main import run
from lora_scripts.core.catalogue import LANGUAGES, say_keys
from lora_scripts.families._base import Unsupported
from lora_scripts.families._source import family_names


def test_every_family_is_in_the_table(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    assert run(["families"]) == 0
    shown = capsys.readouterr().out
    assert all(f" {name} " in shown for name in family_names())
    assert "Stable Diffusion XL" in shown


def test_programs_get_the_same(capsys):
    assert run(["families", "--json"]) == 0
    told = {family["name"]: family for family in json.loads(capsys.readouterr().out)}
    assert told.keys() == set(family_names())
    assert told["sdxl"]["trains"] == ["unet", "text_encoder", "text_encoder_2"]
    assert told["sdxl"]["supports"]["text_encoder_training"] is True
    assert "last but one" in told["sdxl"]["supports"]["clip_skip"]
    for family in told.values():
        assert bool(family["fits"]) is (family["task"] == "image-generation"), family["name"]
    assert told["flux"]["fits"][0]["cards"] == {"none": 0, "8bit": 24, "4bit": 12}


@pytest.mark.parametrize("lang", LANGUAGES)
def test_every_feature_has_a_name_and_every_gap_a_reason(lang):
    for sheet in families.sheets():
        for feature, told in sheet.supports.items():
            assert f"families.feature.{feature}" in say_keys(lang), (sheet.name, feature)
            if isinstance(told, Unsupported):
                assert told.reason in say_keys(lang)
    page = families.families_markdown(lang)
    assert all(f"| `{name}` |" in page for name in family_names())


def test_a_kind_of_model_is_said_in_the_language_in_use():
    words = [sheet for sheet in families.sheets() if sheet.task == "text-generation"]
    assert words
    for sheet in words:
        assert sheet.named("en") == sheet.title
        assert sheet.named("zh") != sheet.title
    assert "因果语言模型" in families.families_markdown("zh")
    assert "language model" not in families.families_markdown("zh")
