"""What is said about captions: what is cut with the words that are lost, and what means nothing here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lora_scripts.config.schema import RunConfig
from lora_scripts.core.catalogue import message
from lora_scripts.core.problems import Location, Problem
from lora_scripts.data.manifest import Example
from lora_scripts.data.pixels import Picture
from lora_scripts.data.sample import Handling
from lora_scripts.data.samples import samples_of
from lora_scripts.data.wording import Wording
from lora_scripts.families._clip import cutter
from lora_scripts.preflight.checks.captions import check_captions

CUT = cutter()


def check(*captions: str, wording: Wording | None = None, **keys: Any) -> dict[str, Problem]:
    pairs = [
        (
            Example({"image": Path("/d/a.png"), "name": f"{n}.png", "caption": text}, Location("m.csv", n)),
            Picture(Path("/d/a.png"), 64, 64, f"{n:064x}"),
        )
        for n, text in enumerate(captions)
    ]
    handling = Handling(wording=wording or Wording())
    found = samples_of(pairs, resolution=64, step=8, handling=handling, repeats=2)
    settings = {"train_data_dir": "d", "base_model": "builtin:demo", "output_dir": "o", **keys}
    again = found.for_an_epoch()
    return {p.code: p for p in check_captions(again, CUT, RunConfig.model_validate(settings))}


def test_usual_captions_are_left_in_peace() -> None:
    assert check("a red house", "1girl, smile, night", "", "a (b) c", "a: b", "12:30 (noon)") == {}


def test_what_is_cut_is_shown_with_its_count() -> None:
    long = [f"{'house ' * 74}one two three number {n}" for n in range(7)]
    problem = check(*long)["LS2430"]
    assert (problem.params["count"], problem.params["longest"]) == (7, 79)
    shown = message(problem, "en").splitlines()[1:]
    assert len(shown) == 5, "five at most"
    assert shown[0].strip() == "0.png (79): … two three number 0"
    assert check(*long, max_caption_tokens=150) == {}


def test_what_is_put_around_a_caption_counts() -> None:
    text = "house " * 75
    assert check(text) == {}
    assert check(text, wording=Wording(trigger="sks"))["LS2430"].params["count"] == 1


@pytest.mark.parametrize("caption", ["a (red:1.2) car", "((masterpiece)), a car", "(very good: 1), (x:0.8)"])
def test_emphasis_is_said_to_be_literal(caption: str) -> None:
    found = check(caption, "plain")
    assert found["LS2431"].params["count"] == 1
    assert found["LS2431"].severity == "note"


def test_choices_and_bars_are_explained() -> None:
    assert check("a {red|blue} car")["LS2432"].severity == "note"
    assert check("a ||| b, c")["LS2433"].severity == "warning"
    assert check("a ||| b, c", wording=Wording(shuffle=True)) == {}


def test_tags_mixed_with_sentences_are_noticed() -> None:
    tags = ["1girl, red hair, smile, night"] * 1 + [f"1boy, hat, rain, {n}" for n in range(4)]
    prose = [f"A man walks along the street number {n} in the rain." for n in range(4)]
    problem = check(*tags, *prose)["LS2434"]
    assert (problem.params["tags"], problem.params["sentences"]) == (5, 4)
    assert check(*tags) == check(*prose) == {}
    assert check(*tags, *tags, *prose[:1]) == {}, "one is an accident"
