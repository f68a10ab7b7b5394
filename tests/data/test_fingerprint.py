"""What a run was trained on: the same value for the same data, and every difference named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lora_scripts.core.catalogue import use_language
from lora_scripts.core.json_pieces import json_pieces
from lora_scripts.core.problems import Location
from lora_scripts.data.buckets import place
from lora_scripts.data.fingerprint import differences, fingerprint, summary
from lora_scripts.data.manifest import Example
from lora_scripts.data.masks import Mask
from lora_scripts.data.pixels import Picture
from lora_scripts.data.sample import Handling, Sample
from lora_scripts.data.samples import samples_of
from lora_scripts.data.wording import Wording


def sample(name: str, digest: str, caption: str = "x") -> Sample:
    path = Path("/anywhere") / name
    example = Example({"image": path, "name": name, "caption": caption}, Location("metadata.csv", 1))
    return Sample(
        example, Picture(path, 64, 64, digest), place([(64, 64)], resolution=64, step=8)[0], caption
    )


A, B, C = sample("a.png", "1"), sample("b.png", "2"), sample("猫.png", "3")


def test_the_same_data_is_the_same_value_wherever_it_lies() -> None:
    moved = replace(A, picture=replace(A.picture, path=Path("/elsewhere/a.png")))
    assert fingerprint([A, B], [C]) == fingerprint([B, moved], [C])
    value = fingerprint([A, B], [C])
    assert json.loads("".join(json_pieces(value))) == value
    assert summary(value) == {"sha256": value["sha256"], "train": 2, "validation": 1}


@pytest.mark.parametrize(
    "other",
    [
        fingerprint([A], [C]),
        fingerprint([A, B, C]),
        fingerprint([A, sample("b.png", "9")], [C]),
        fingerprint([A, sample("b.png", "2", "y")], [C]),
        fingerprint([A, sample("d.png", "2")], [C]),
    ],
)
def test_other_data_is_another_value(other: dict[str, object]) -> None:
    assert other["sha256"] != fingerprint([A, B], [C])["sha256"]


def test_every_difference_is_named() -> None:
    old = fingerprint([A, B, sample("e.png", "5")], [C])
    new = fingerprint([sample("a.png", "9"), sample("b.png", "2", "new words"), C, sample("d.png", "4")])
    found = differences(old, new)
    assert found
    assert found.added == ("d.png",)
    assert found.removed == ("e.png",)
    assert found.changed == ("a.png",)
    assert found.recaptioned == ("b.png",)
    assert found.moved == ("猫.png",)
    assert not differences(old, old)


def test_equal_names_in_the_two_folders_are_told_apart() -> None:
    old = fingerprint([A], [sample("a.png", "7")])
    assert not differences(old, old)
    assert differences(old, fingerprint([A], [sample("a.png", "8")])).changed == ("a.png",)
    assert differences(old, fingerprint([A])).removed == ("a.png",)


@pytest.mark.parametrize(
    ("language", "words"), [("en", "pictures added: 1 (b.png)"), ("zh", "新增的图片：1 张（b.png）")]
)
def test_the_differences_are_said_in_both_languages(language: str, words: str) -> None:
    use_language(language)
    try:
        assert differences(fingerprint([A]), fingerprint([A, B])).lines() == [words]
    finally:
        use_language(None)


def test_samples_come_in_the_order_of_names_whatever_the_rows_say() -> None:
    pairs = [(each.example, replace(each.picture, sha256="ab" * 32)) for each in (C, A, B)]
    assert [each.name for each in samples_of(pairs, resolution=64, step=8)] == ["a.png", "b.png", "猫.png"]


def test_what_is_done_to_a_picture_counts_too() -> None:
    plain = fingerprint([A, B])
    others = [
        replace(A, repeats=3),
        replace(A, handling=Handling(wording=Wording(shuffle=True))),
        replace(A, handling=Handling(wording=Wording(shuffle=True, keep=1))),
        replace(A, handling=Handling(wording=Wording(dropout=0.1))),
        replace(A, handling=Handling(regularization=True, weight=0.5)),
        replace(A, mask=Mask("alpha", A.picture.path, "1")),
        replace(A, mask=Mask("file", A.picture.path, "2")),
    ]
    values = [fingerprint([other, B]) for other in others]
    assert len({plain["sha256"], *(value["sha256"] for value in values)}) == len(others) + 1
    for value in values:
        found = differences(plain, value)
        assert found.handled == ("a.png",)
        assert bool(found)
        assert len(found.lines()) == 1


def test_times_and_sizes_of_one_picture_are_one_entry() -> None:
    assert fingerprint([A, replace(A, repeat=1), replace(A, size=1)]) == fingerprint([A])
