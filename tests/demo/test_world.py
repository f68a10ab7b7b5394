"""The drawn world: the same seed gives the same picture, and captions say what is in it."""

import random

import pytest

from demo.base.captions import ATTRIBUTES, labels, varied
from demo.draw import DayStyle
from demo.neon import NeonStyle
from demo.world import SIZES, describe, parse, sample_scene

STYLES = (DayStyle(), NeonStyle())


def scenes(count):
    rng = random.Random(3)
    return [sample_scene(rng, sizes=SIZES) for _ in range(count)]


def test_the_same_seed_gives_the_same_scenes():
    assert scenes(20) == scenes(20)


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.name)
def test_the_same_scene_is_the_same_picture_in_its_own_size(style):
    for scene in scenes(4):
        picture = style.paint(scene)
        assert picture.size == (scene.width, scene.height)
        assert picture.tobytes() == style.paint(scene).tobytes()


def test_styles_differ_in_look():
    scene = scenes(1)[0]
    assert STYLES[0].paint(scene).tobytes() != STYLES[1].paint(scene).tobytes()


def test_a_caption_can_be_read_back():
    rng = random.Random(4)
    for scene in scenes(200):
        for text in (describe(scene), describe(scene, rng)):
            read = parse(text)
            assert read is not None, text
            assert read.content() == scene.content(), text


def test_other_text_is_not_taken_for_a_caption():
    assert parse("a red tower on the left") is None
    assert parse("") is None


def test_things_stand_in_different_places():
    for scene in scenes(100):
        places = [thing.place for thing in scene.things]
        assert len(set(places)) == len(places)


def test_labels_fit_the_attributes():
    for scene in scenes(50):
        values = labels(scene)
        assert len(values) == len(ATTRIBUTES)
        for value, options in zip(values, ATTRIBUTES.values(), strict=True):
            assert 0 <= value <= len(options)


def test_what_a_varied_caption_leaves_out_is_labelled_as_not_said():
    rng = random.Random(5)
    scene = scenes(1)[0]
    text, said = varied(scene, rng, ["word"], omit=1.0, strange=0.0)
    assert said[-3:] == [0, 0, 0]
    assert len(text.split(", ")) == len(scene.things)
