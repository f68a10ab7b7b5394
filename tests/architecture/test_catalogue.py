"""The catalogue and the code agree: both languages, every code used, every placeholder filled."""

from __future__ import annotations

import ast
import re
import string
import tomllib
from functools import cache

import pytest

from lora_scripts.core import catalogue
from lora_scripts.core.problems import Location, Problem
from tests.architecture.sources import SRC, python_files, shown, tree

MESSAGES = SRC / "core" / "messages"
ROOMS = sorted({path.name for path in MESSAGES.rglob("*.toml")})
FIELDS = ("message", "fix", "cause", "example")
CODE = re.compile(r"LS\d{4}")
CHINESE = re.compile(r"[\u4e00-\u9fff]")
SPEAKING = python_files("src/lora_scripts", "demo", "scripts")


@cache
def table(language: str, room: str) -> dict:
    return tomllib.loads((MESSAGES / language / room).read_text(encoding="utf-8"))


def all_codes() -> dict[str, dict[str, dict[str, str]]]:
    """Code -> language -> its entry."""
    found: dict[str, dict[str, dict[str, str]]] = {}
    for language in catalogue.LANGUAGES:
        for room in ROOMS:
            for code, entry in table(language, room).items():
                if code != "say":
                    found.setdefault(code, {})[language] = entry
    return found


def all_sentences() -> dict[str, dict[str, str]]:
    """Key of ``say`` -> language -> its sentence."""
    found: dict[str, dict[str, str]] = {}
    for language in catalogue.LANGUAGES:
        for room in ROOMS:
            for key, text in table(language, room).get("say", {}).items():
                found.setdefault(key, {})[language] = text
    return found


def placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


CODES, SENTENCES = all_codes(), all_sentences()


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_the_same_in_both_languages(room):
    english, chinese = table("en", room), table("zh", room)
    assert english.keys() == chinese.keys()
    assert english.get("say", {}).keys() == chinese.get("say", {}).keys()


@pytest.mark.parametrize("language", catalogue.LANGUAGES)
def test_no_room_repeats_what_another_says(language):
    names = [name for room in ROOMS for name in table(language, room) if name != "say"]
    keys = [key for room in ROOMS for key in table(language, room).get("say", {})]
    assert len(names) == len(set(names))
    assert len(keys) == len(set(keys))


def test_a_code_is_explained_in_both_languages():
    for code, languages in CODES.items():
        assert CODE.fullmatch(code)
        assert code[2] in catalogue.EXIT_CODES
        english, chinese = languages["en"], languages["zh"]
        for entry in (english, chinese):
            assert set(entry) == set(FIELDS), code
            assert all(entry[field].strip() for field in FIELDS), code
            assert "\n" not in entry["fix"], code
        for field in ("message", "fix"):
            assert placeholders(english[field]) == placeholders(chinese[field]), code
        for field in ("message", "fix", "cause"):
            assert CHINESE.search(chinese[field]), f"{field} of {code} is not translated"
            assert not CHINESE.search(english[field]), code


def test_a_sentence_has_the_same_placeholders_in_both_languages():
    blanks = {
        key: [placeholders(said[one]) for one in catalogue.LANGUAGES] for key, said in SENTENCES.items()
    }
    assert [key for key, (english, chinese) in blanks.items() if english != chinese] == []


def test_placeholders_are_plain_names():
    entries = [entry for languages in CODES.values() for entry in languages.values()]
    texts = [entry[field] for entry in entries for field in ("message", "fix")]
    texts += [text for sentence in SENTENCES.values() for text in sentence.values()]
    assert all(name.isidentifier() for text in texts for name in placeholders(text))


@cache
def constants() -> set[str]:
    found = set()
    for path in SPEAKING:
        nodes = (node for node in ast.walk(tree(path)) if isinstance(node, ast.Constant))
        found |= {node.value for node in nodes if isinstance(node.value, str)}
    return found


def test_codes_in_the_program_and_in_the_catalogue_are_the_same():
    used = {text for text in constants() if CODE.fullmatch(text)}
    assert used - CODES.keys() == set(), "used and not in the catalogue"
    assert CODES.keys() - used == set(), "in the catalogue and never used"


def only_compared() -> set[str]:
    """Codes that the program asks after and nowhere says: in sets and comparisons alone."""
    asked: set[str] = set()
    said: set[str] = set()
    for path in SPEAKING:
        inside = {
            id(part)
            for node in ast.walk(tree(path))
            if isinstance(node, ast.Set | ast.Compare)
            for part in ast.walk(node)
        }
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and CODE.fullmatch(node.value):
                (asked if id(node) in inside else said).add(node.value)
    return asked - said


def test_every_code_is_said_somewhere_and_not_only_asked_after():
    assert only_compared() == set()


@pytest.mark.parametrize("language", catalogue.LANGUAGES)
def test_every_code_can_be_explained_on_the_command_line(language, capsys):
    from lora_scripts.cli import main

    for code, entries in CODES.items():
        assert main.run(["--lang", language, "explain", code]) == 0
        shown = capsys.readouterr().out
        entry = entries[language]
        assert shown.startswith(f"{code}  {entry['message']}")
        assert entry["cause"] in shown
        assert f"→ {entry['fix']}" in shown
        assert entry["example"].strip().splitlines()[0] in shown
        assert catalogue.say("cli.explain.example", language) in shown


@pytest.mark.parametrize("language", catalogue.LANGUAGES)
def test_every_problem_can_be_said_whatever_its_parameters_hold(language):
    """A file may hold what it likes: nothing of it is filled in twice, and nothing commands a terminal."""
    evil = "{0.__class__}{x}\x1b[2J\u202e%s" + "k" * 30_000
    for code, entries in CODES.items():
        texts = [entries[language][field] for field in ("message", "fix")]
        params = dict.fromkeys(set().union(*map(placeholders, texts)), evil)
        shown = catalogue.render(Problem(code, params, Location(evil, 3)), language)
        assert not {"\x1b", "\u202e"} & set(shown)
        assert len(shown) < 20_000
        assert all("{0.__class__}" in shown for _ in params)


def spoken_patterns() -> list[re.Pattern[str]]:
    """Keys that are put together: ``say(f"key.{name}")`` speaks every ``key.…``."""
    patterns = []
    for path in SPEAKING:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.JoinedStr):
                parts = [re.escape(v.value) if isinstance(v, ast.Constant) else ".+" for v in node.values]
                if parts and parts[0] != ".+" and "." in str(getattr(node.values[0], "value", "")):
                    patterns.append(re.compile("".join(parts)))
    return patterns


def test_no_sentence_is_left_over():
    exact, patterns = constants(), spoken_patterns()
    unused = [key for key in SENTENCES if key not in exact and not any(p.fullmatch(key) for p in patterns)]
    assert unused == []


def calls(name: str):
    for path in SPEAKING:
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name:
                yield path, node


def test_every_sentence_that_is_spoken_exists_and_is_filled():
    for path, call in calls("say"):
        first = call.args[0] if call.args else None
        if not (isinstance(first, ast.Constant) and isinstance(first.value, str)):
            continue
        where = f"{shown(path)}:{call.lineno} {first.value}"
        assert first.value in SENTENCES, where
        given = {keyword.arg for keyword in call.keywords}
        if None not in given:
            assert placeholders(SENTENCES[first.value]["en"]) <= given, where


def test_every_problem_fills_its_message():
    for path, call in calls("Problem"):
        first = call.args[0] if call.args else None
        if not (isinstance(first, ast.Constant) and first.value in CODES):
            continue
        entry = CODES[first.value]["en"]
        needed = placeholders(entry["message"]) | placeholders(entry["fix"])
        named = next((keyword.value for keyword in call.keywords if keyword.arg == "params"), None)
        params = call.args[1] if len(call.args) > 1 else named
        if params is None:
            assert not needed, f"{shown(path)}:{call.lineno} {first.value} lacks {needed}"
        elif isinstance(params, ast.Dict) and all(isinstance(key, ast.Constant) for key in params.keys):
            given = {key.value for key in params.keys if isinstance(key, ast.Constant)}
            assert needed <= given, f"{shown(path)}:{call.lineno} {first.value} lacks {needed - given}"


def test_the_doors_read_their_sentences_without_a_toml_reader(monkeypatch):
    from lora_scripts import door

    for language in catalogue.LANGUAGES:
        monkeypatch.setattr(door, "language", lambda language=language: language)
        for key, text in table(language, "door.toml")["say"].items():
            names = {name: f"<{name}>" for name in placeholders(text)}
            assert door.say(key, **names) == text.format(**names)
