"""Which form of a picture is learnt: a function of the draw, one choice not moving another."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from lora_scripts.core.problems import Location
from lora_scripts.core.seeds import derive_seed
from lora_scripts.data.manifest import Example
from lora_scripts.data.pixels import Picture
from lora_scripts.data.sample import AS_IT_IS, Handling, Sample
from lora_scripts.data.samples import Samples, samples_of
from lora_scripts.data.wording import Wording

SHA256 = "ab" * 32
SEEDS = [derive_seed(1, "draw", number) for number in range(2000)]


def samples(caption: str = "a, b, c", size: tuple[int, int] = (100, 64), **handling: object) -> Samples:
    path = Path("/data/a.png")
    example = Example({"image": path, "name": "a.png", "caption": caption}, Location("m.csv", 1))
    found = Handling(**handling)  # type: ignore[arg-type]
    return samples_of(
        [(example, Picture(path, *size, SHA256))], resolution=64, step=8, handling=found, repeats=3
    )


def sample(caption: str = "a, b, c", size: tuple[int, int] = (100, 64), **handling: object) -> Sample:
    return samples(caption, size, **handling)[0]


def test_without_rules_a_sample_is_itself() -> None:
    plain = sample()
    assert plain.handling == AS_IT_IS
    assert all(plain.drawn(seed) is plain for seed in SEEDS[:10])
    assert list(plain.views()) == [plain]


def test_repeats_are_the_same_picture_with_draws_of_their_own() -> None:
    times = list(samples().for_an_epoch())
    assert [each.key for each in times] == [SHA256, f"{SHA256}#1", f"{SHA256}#2"]
    assert {each.name for each in times} == {"a.png"}
    assert replace(times[1], size=2).key == f"{SHA256}#1@2"
    assert replace(times[0], size=1).key == f"{SHA256}@1"


def mirrored_and_worded(seeds: list[int], *, by_chance: float) -> None:
    """``by_chance``: how far from its share a count may be."""
    both = sample(flips=True, wording=Wording(shuffle=True))
    drawn = [both.drawn(seed) for seed in seeds]
    assert sum(each.flipped for each in drawn) == pytest.approx(len(seeds) / 2, abs=1.25 * by_chance)
    counts = Counter(each.caption for each in drawn)
    assert len(counts) == 6
    assert all(count == pytest.approx(len(seeds) / 6, abs=by_chance) for count in counts.values())


def test_some_are_mirrored_and_every_wording_comes() -> None:
    mirrored_and_worded(SEEDS[:200], by_chance=25)


@pytest.mark.long
def test_half_are_mirrored_and_every_wording_comes() -> None:
    mirrored_and_worded(SEEDS, by_chance=80)


def test_dropout_is_a_share_and_says_nothing() -> None:
    drawn = [sample(wording=Wording(dropout=0.3, trigger="sks")).drawn(seed).caption for seed in SEEDS]
    assert drawn.count("") == pytest.approx(600, abs=80)
    assert set(drawn) == {"", "sks, a, b, c"}
    assert {sample(wording=Wording(dropout=1.0)).drawn(seed).caption for seed in SEEDS[:50]} == {""}


def test_one_choice_does_not_move_another() -> None:
    plain = sample(flips=True)
    more = sample(flips=True, crops=True, wording=Wording(shuffle=True, dropout=0.5))
    assert [plain.drawn(s).flipped for s in SEEDS[:99]] == [more.drawn(s).flipped for s in SEEDS[:99]]


def test_crops_stay_inside_and_reach_the_edges() -> None:
    cropped = sample(size=(70, 64), crops=True)
    across, down = cropped.placement.spare
    assert across + down > 0
    lefts, tops = zip(*(cropped.drawn(seed).placement.crop for seed in SEEDS), strict=True)
    assert set(lefts) == set(range(across + 1))
    assert set(tops) == set(range(down + 1))
    assert cropped.drawn(SEEDS[0]).placement.bucket == cropped.placement.bucket


def test_whatever_is_drawn_is_among_the_views() -> None:
    full = sample("{a|b}, c, d", flips=True, wording=Wording(shuffle=True, dropout=0.2, variants=4))
    views = list(full.views())
    assert len({view.caption for view in views}) == 5
    captions, sides = {view.caption for view in views}, {view.flipped for view in views}
    for seed in SEEDS[:300]:
        drawn = full.drawn(seed)
        assert drawn.caption in captions
        assert drawn.flipped in sides


def test_what_is_held_out_is_always_the_same() -> None:
    full = samples(
        "{a|b}, c", flips=True, crops=True, wording=Wording(shuffle=True, dropout=0.9, trigger="sks")
    )
    (held,) = full.held_out()
    assert held.caption == "sks, a, c"
    assert list(held.views()) == [held]
    assert all(held.drawn(seed) is held for seed in SEEDS[:20])
    assert held.repeats == 1
