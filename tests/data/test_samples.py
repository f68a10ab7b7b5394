"""Samples as columns say what each sample says, through joining, choosing, repeating and holding out."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import numpy as np

from lora_scripts.core.problems import Location
from lora_scripts.data.manifest import Example
from lora_scripts.data.masks import Mask
from lora_scripts.data.pixels import Picture
from lora_scripts.data.sample import Handling
from lora_scripts.data.samples import Samples, samples_of
from lora_scripts.data.wording import Wording

SIZES = [(100, 64), (64, 64), (40, 200), (30, 30)]


def pairs(count: int, folder: str) -> list[tuple[Example, Picture]]:
    rng = random.Random(folder)
    found = []
    for number in rng.sample(range(1000), count):
        path = Path(f"/{folder}/{number}.png")
        fields = {"image": path, "name": path.name, "caption": f"{folder}, {number}"}
        if number % 3 == 0:
            fields["repeats"] = number % 5 + 1
        example = Example(fields, Location("m.csv", number))
        found.append((example, Picture(path, *rng.choice(SIZES), f"{rng.getrandbits(256):064x}", (), False)))
    return found


TAUGHT, KEPT = pairs(17, "a"), pairs(9, "b")
MASKS = {str(example.fields["name"]): Mask("alpha", p.path, p.sha256) for example, p in TAUGHT[:5]}


def both(sizes: tuple[int, ...] = (64,)) -> Samples:
    taught = Handling(wording=Wording(trigger="sks"), part="a/", flips=True)
    kept = Handling(part="b/", regularization=True, weight=0.5)
    return Samples.joined(
        samples_of(
            pairs_, resolution=resolution, step=8, handling=handling, masks=masks, repeats=2, size=number
        )
        for pairs_, handling, masks in ((TAUGHT, taught, MASKS), (KEPT, kept, {}))
        for number, resolution in enumerate(sizes)
    )


def test_a_sample_is_what_its_picture_and_data_set_say() -> None:
    found = both()
    assert len(found) == 26
    assert [each.name for each in found] == [
        *sorted(f"a/{example.fields['name']}" for example, _ in TAUGHT),
        *sorted(f"b/{example.fields['name']}" for example, _ in KEPT),
    ]
    by_name = {f"a/{example.fields['name']}": (example, picture) for example, picture in TAUGHT}
    for each in found[:17]:
        example, picture = by_name[each.name]
        assert (each.example, each.picture) == (example, picture)
        assert each.caption == f"sks, {example.fields['caption']}"
        assert each.repeats == example.fields.get("repeats", 2)
        assert each.mask == MASKS.get(str(example.fields["name"]))
        assert (each.repeat, each.size, each.flipped) == (0, 0, False)


def test_columns_agree_with_the_samples() -> None:
    found = both((64, 96))
    found = found[np.random.default_rng(1).permutation(len(found))].for_an_epoch()
    objects = [*found]
    assert [len(found), [*found.names()]] == [len(objects), [each.name for each in objects]]
    assert [*found.paths()] == [each.picture.path for each in objects]
    assert [*found.captions()] == [(each.example.fields["caption"], each.handling) for each in objects]
    assert found.hashes.tolist() == [bytes.fromhex(each.picture.sha256) for each in objects]
    assert found.sizes.tolist() == [each.size for each in objects]
    assert found.repeated.tolist() == [each.repeat for each in objects]
    assert found.regularization.tolist() == [each.handling.regularization for each in objects]
    assert found.mirrored.tolist() == [each.handling.flips for each in objects]
    assert found.lost.tolist() == [each.placement.lost for each in objects]
    assert found.spare.tolist() == [sum(each.placement.spare) for each in objects]
    assert found.enlarged.tolist() == [each.placement.resize[0] / each.picture.width for each in objects]
    assert [bool(mask) for mask in found.masks] == [each.mask is not None for each in objects]
    shapes, which = found.buckets()
    assert [shapes[number] for number in which] == [each.placement.bucket for each in objects]
    assert shapes == [*dict.fromkeys(each.placement.bucket for each in objects)], "as they come"


def test_an_epoch_has_each_as_often_as_its_folder_says() -> None:
    found = both()
    epoch = found.for_an_epoch()
    assert Counter(epoch.names()) == Counter({each.name: each.repeats for each in found})
    assert len({each.key for each in epoch}) == len(epoch)
    assert [*epoch.once()] == [*found]
    assert [each.repeat for each in epoch[:3]] == [0, 1, 0] or epoch[0].repeats != 2


def test_what_is_held_out_comes_once_in_one_form() -> None:
    held = both()[np.array([3, 20])].held_out()
    assert [each.handling.fixed for each in held] == [True, True]
    assert [len(list(each.views())) for each in held] == [1, 1]
    assert len(held.for_an_epoch()) == 2
    assert [handling.part for handling in held.handlings] == ["a/", "b/"]


def test_none_are_none() -> None:
    for none in (Samples(), samples_of([], resolution=64, step=8), both()[:0], Samples.joined([])):
        assert len(none.for_an_epoch()) == len(none.hashes) == len([*none]) == len(none.buckets()[0]) == 0
        assert len(none.placements) == 0
