"""The reference describes what the schema accepts, no more and no less."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from lora_scripts.config.load import load_config
from lora_scripts.config.reference import describe_type, fields, json_schema, reference_markdown
from lora_scripts.config.schema import RunConfig
from lora_scripts.core.catalogue import LANGUAGES, say_keys

ROOT = Path(__file__).resolve().parents[2]
KEYS = dict(fields())
DEFAULT = ROOT / "configs" / "lora_default.yaml"

schema_in = cache(json_schema)
"""Read alone: made once for each language, not once for each key."""


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_key_is_explained_and_no_other(language):
    explained = {key.removeprefix("key.") for key in say_keys(language) if key.startswith("key.")}
    assert explained == set(KEYS)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("lora_rank", "a whole number from 1 to 1024"),
        ("learning_rate", "a number above 0 and at most 10"),
        ("lora_dropout", "a number of at least 0 and below 1"),
        ("mixed_precision", "auto, fp16, bf16 or no"),
        (
            "resolution",
            "auto or a whole number from 8 to 4096 or a list (a whole number from 8 to 4096)",
        ),
        ("epochs", "a whole number from 1 to 1000000000; or null"),
        ("strict", "true or false"),
        ("preview.prompts", "a list (text)"),
        ("train_data_dir", "a path"),
        ("components", "names, each with a path"),
        ("background", 'white, black, gray or a colour such as "#20A0FF"'),
        ("seed", "a whole number of at least 0 and below 2^63"),
        ("validation", "a section of its own"),
    ],
)
def test_what_a_key_takes_is_said_in_words(key, expected):
    assert describe_type(KEYS[key], "en") == expected


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_description_shows_pythons_own_words(language):
    for key, field in KEYS.items():
        text = describe_type(field, language)
        assert not any(word in text for word in ("Annotated", "<class", "typing", "NoneType", "^[")), key


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_page_has_a_row_for_every_key(language):
    rows = [line for line in reference_markdown(language).splitlines() if line.startswith("| `")]
    sections = {key.partition(".")[0] for key in KEYS if "." in key}
    assert len(rows) == len(KEYS) - len(sections)
    assert all(row.replace("\\|", "").count("|") == 5 for row in rows)


def schema_node(schema: dict, key: str) -> dict:
    node = schema
    for part in key.split("."):
        node = node["properties"][part]
        reference = node.get("$ref") or node.get("items", {}).get("$ref")
        if reference:
            node = schema["$defs"][reference.rpartition("/")[2]] | {"description": node["description"]}
    return node


def test_the_json_schema_describes_every_key_in_both_languages():
    for key in KEYS:
        both = schema_node(schema_in(), key)["description"]
        english, chinese = (schema_node(schema_in(one), key)["description"] for one in LANGUAGES)
        assert both == f"{english}\n\n{chinese}", key
        assert english != chinese, key


def test_the_json_schema_knows_bounds_names_and_nothing_of_ours():
    schema = json_schema()
    assert schema["additionalProperties"] is False
    assert set(schema["required"]) == {"train_data_dir", "base_model", "output_dir"}
    assert schema["properties"]["lora_rank"]["minimum"] == 1
    assert schema["properties"]["learning_rate"]["exclusiveMinimum"] == 0
    assert "text-to-image" in schema["properties"]["task_type"]["enum"]
    text = json.dumps(schema)
    assert '"harmless"' not in text
    assert '"ge"' not in text


def test_the_default_configuration_is_complete_and_leads_editors_to_the_schema():
    first = DEFAULT.read_text(encoding="utf-8").splitlines()[0]
    assert first == "# yaml-language-server: $schema=./schema.json"
    config = load_config(DEFAULT)
    assert config.base_model == "builtin:demo"
    assert config.metadata_path is None
    assert config.learning_rate == 2e-4


def test_the_default_configuration_works_after_editing_five_lines(tmp_path):
    text = DEFAULT.read_text(encoding="utf-8")
    marked = [line for line in text.splitlines() if line.endswith("# *")]
    names = [line.partition(":")[0] for line in marked]
    assert names == ["train_data_dir", "lora_rank", "batch_size", "learning_rate", "output_dir"]
    for name, value in zip(names, ("./图片", "8", "2", "1e-4", "./output/新 风格"), strict=True):
        line = next(line for line in marked if line.startswith(name))
        text = text.replace(line, f"{name}: {value}")
    edited = tmp_path / "mine.yaml"
    edited.write_text(text, encoding="utf-8")
    config = load_config(edited)
    assert (config.train_data_dir, config.lora_rank, config.batch_size) == ("./图片", 8, 2)
    assert (config.learning_rate, config.name) == (1e-4, "新 风格")


def test_the_default_configuration_shows_the_defaults():
    """A newcomer's file must not steer away from what a missing key would do."""
    values = YAML(typ="safe", pure=True).load(DEFAULT.read_text(encoding="utf-8"))
    for name in ("lora_rank", "batch_size", "save_steps"):
        assert values[name] == RunConfig.model_fields[name].default
