"""How captions are worded: fixed words stay, tags move, choices are made, always the same ones."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest

from lora_scripts.data.wording import PLAIN, Wording, has_choice

TAGS = "1girl, red hair, smile, night, rain, city"


@pytest.mark.parametrize(
    "caption", ["", "a city", "a, b, c", "||| a", "a {b} c", "{{a", "{a} | {b}", "x (word:1.2)", "<lora:a:1>"]
)
def test_without_rules_a_caption_is_what_it_is(caption: str) -> None:
    assert PLAIN.plain(caption) == caption
    assert PLAIN.versions(caption) == (caption,)


def test_prefix_suffix_and_trigger_stand_around_a_caption() -> None:
    wording = Wording(prefix="photo of", suffix=", best quality", trigger="sks")
    assert wording.versions("a dog") == ("sks, photo of a dog, best quality",)
    assert wording.plain("") == "sks, photo of, best quality"
    assert Wording(prefix="the sks dog", trigger="sks").plain("runs") == "the sks dog runs"


def test_shuffling_moves_tags_and_nothing_else() -> None:
    wording = Wording(shuffle=True, keep=2, prefix="photo", suffix="end", trigger="sks")
    versions = wording.versions(TAGS)
    assert len(set(versions)) == len(versions) == 10
    for version in versions:
        assert version.startswith("sks, photo 1girl, red hair, ")
        assert version.endswith(" end")
        middle = version.removeprefix("sks, photo ").removesuffix(" end").split(", ")
        assert Counter(middle) == Counter(TAGS.split(", "))
    assert wording.plain(TAGS) == f"sks, photo {TAGS} end"


def test_every_tag_comes_to_every_place() -> None:
    versions = Wording(shuffle=True, variants=300).versions("a, b, c, d, e")
    assert len(versions) == 120
    places = [Counter(version.split(", ")[place] for version in versions) for place in range(5)]
    assert all(count == dict.fromkeys("abcde", 24) for count in places)


def test_bars_say_what_is_shuffled() -> None:
    versions = Wording(shuffle=True, keep=5).versions("a, b ||| c, d, e ||| f, g")
    assert len(versions) == 6
    assert all(version.startswith("a, b, ") and version.endswith(", f, g") for version in versions)
    assert Wording(shuffle=True).plain("a ||| b, c ||| d") == "a, b, c, d"
    assert {v[:1] for v in Wording(shuffle=True).versions("a ||| b, c")} == {"a"}


def test_short_captions_have_fewer_versions() -> None:
    assert sorted(Wording(shuffle=True).versions("a, b")) == ["a, b", "b, a"]
    assert Wording(shuffle=True).versions("a") == ("a",)
    assert Wording(shuffle=True).versions("") == ("",)
    assert len(Wording(shuffle=True, variants=1).versions(TAGS)) == 1


def test_choices_are_all_made_and_the_first_is_the_plain_one() -> None:
    caption = "a {red|deep blue} {car|van}"
    assert has_choice(caption)
    assert PLAIN.plain(caption) == "a red car"
    assert sorted(PLAIN.versions(caption)) == [
        "a deep blue car", "a deep blue van", "a red car", "a red van",
    ]  # fmt: skip
    assert sorted(PLAIN.versions("a {|big} car")) == ["a big car", "a car"]


def test_double_braces_are_plain_ones_where_there_are_choices() -> None:
    assert PLAIN.plain("{{x}} {a|b}") == "{x} a"
    assert not has_choice("{{a|b}}")
    assert PLAIN.versions("{{a|b}}") == ("{{a|b}}",)


def test_choices_and_shuffling_go_together() -> None:
    for version in Wording(shuffle=True).versions("{a|b}, c, d"):
        assert Counter(version.split(", ")) in (Counter("acd"), Counter("bcd"))


def test_full_width_commas_separate_tags_too() -> None:
    assert sorted(Wording(shuffle=True).versions("猫，狗")) == ["狗, 猫", "猫, 狗"]


def test_versions_are_the_same_in_every_process() -> None:
    code = "from lora_scripts.data.wording import Wording; print(Wording(shuffle=True).versions({!r}))"
    found = {
        subprocess.run(
            [sys.executable, "-c", code.format(TAGS)],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": "src"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert found == {f"{Wording(shuffle=True).versions(TAGS)}\n"}
