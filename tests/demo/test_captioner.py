"""The shipped captioner names what is there; and the parts that it was made with do what they say."""

import random

import numpy
import pytest

from demo.base.captions import labels
from demo.captioner import model, pictures, score, training, words
from demo.world import Scene, Thing, describe, parse, sample_scene

built = pytest.mark.skipif(not (model.FOLDER / "config.json").exists(), reason="the captioner was not built")
SCENE = Scene((Thing("tower", "red", "left"), Thing("boat", "white", "right")), "water", "rain", "night")
TRUTH = "a red tower on the left, a white boat on the right, by the water, in the rain, at night"


@pytest.fixture(scope="module")
def shipped():
    import torch
    from transformers import BlipForConditionalGeneration, BlipProcessor

    captioner = BlipForConditionalGeneration.from_pretrained(
        model.FOLDER, dtype=torch.float32, local_files_only=True
    )
    return captioner.eval(), BlipProcessor.from_pretrained(model.FOLDER, local_files_only=True)


@built
def test_it_is_small_and_without_pickles():
    files = [path for path in model.FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= model.LIMIT_BYTES
    assert {path.suffix for path in files} == {".json", ".safetensors", ".md"}


@built
@pytest.mark.parametrize("style", ["day", "neon", "ink", "pencil"])
def test_it_names_things_colours_and_places_of_unseen_pictures(shipped, style):
    # A seed of its own: these are not the pictures of the script's score.
    scenes, drawn = score.unseen(style, 30, pictures.reserved(), seed=4)
    figures = score.judge(score.captions_of(*shipped, drawn), scenes)
    assert figures["pictures"] >= score.TARGET
    assert min(figures[name] for name in ("ground", "weather", "time")) >= score.TARGET


@built
def test_it_is_what_the_captioner_blip_loads_as_builtin_demo():
    from lora_scripts.labeling._captioner import Asked
    from lora_scripts.labeling.captioners import blip

    captioner = blip.load(Asked(model="builtin:demo", device="cpu"))
    said = captioner.describe([pictures.paint("neon", SCENE, random.Random(1))])
    captioner.close()
    assert [found.text for found in said] == [TRUTH]


@built
def test_a_picture_of_something_else_still_gets_one_sentence_of_its_world(shipped):
    from PIL import Image

    noise = numpy.random.default_rng(1).integers(0, 255, (300, 200, 3), numpy.uint8)
    said = score.captions_of(*shipped, [Image.fromarray(noise)])
    assert said[0]
    assert set(said[0].replace(",", "").split()) <= set(words.vocabulary())


def test_right_means_that_nothing_is_wrong_missing_or_invented():
    def figures(caption):
        return score.judge([caption], [SCENE])

    assert set(figures(TRUTH).values()) == {1.0}
    turned = "a white boat on the right, a red tower on the left, by the water, in the rain, at night"
    assert figures(turned)["pictures"] == 1
    colour = figures(TRUTH.replace("red", "blue"))
    assert (colour["pictures"], colour["colours"], colour["kinds"]) == (0, 0.5, 1)
    kind = figures(TRUTH.replace("tower", "house"))
    assert (kind["pictures"], kind["kinds"]) == (0, 0.5)
    place = figures(TRUTH.replace("on the left", "in the middle"))
    assert (place["pictures"], place["places"], place["kinds"]) == (0, 0.5, 0.5)
    missing = figures(TRUTH.removeprefix("a red tower on the left, "))
    assert (missing["pictures"], missing["places"]) == (0, 0.5)
    invented = figures("a green tree in the middle, " + TRUTH)
    assert (invented["pictures"], invented["kinds"]) == (0, 1)
    weather = figures(TRUTH.replace("rain", "snow"))
    assert (weather["pictures"], weather["weather"]) == (1, 0)
    assert set(figures("a photograph of a cat").values()) == {0.0}


def test_scenes_survive_their_classes_and_a_mirror():
    rng = random.Random(2)
    for _ in range(50):
        scene = sample_scene(rng)
        classes = numpy.array([labels(scene)], numpy.uint8)
        assert training.scene_of(classes[0].tolist()).content() == scene.content()
        other = {"left": "right", "middle": "middle", "right": "left"}
        things = tuple(Thing(t.kind, t.colour, other[t.place]) for t in scene.things)
        turned = Scene(things, scene.ground, scene.weather, scene.time)
        assert training.mirrored(classes)[0].tolist() == labels(turned)


def test_the_tokenizer_knows_every_caption(tmp_path):
    tokenizer = words.write_tokenizer(tmp_path)
    rng = random.Random(3)
    scenes = [sample_scene(rng, counts=(1, 2, 3)) for _ in range(60)]
    rows = words.encode(tokenizer, scenes)
    for row, scene in zip(rows, scenes, strict=True):
        assert tokenizer.decode(row, skip_special_tokens=True) == describe(scene)
        ids = tokenizer(describe(scene, rng))["input_ids"]
        assert tokenizer.unk_token_id not in ids
    assert (rows[:, 0] == tokenizer.bos_token_id).all()
    assert tokenizer.unk_token_id not in tokenizer("zebra 42")["input_ids"]


def test_drawing_goes_on_where_it_stopped_and_leaves_the_demos_own_contents_out(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "CHUNK", 12)
    one, _ = pictures.draw(tmp_path / "one", 24)
    pictures.draw(tmp_path / "two", 12)
    before = (tmp_path / "two" / "pictures" / "000.npy").stat().st_mtime_ns
    two, classes = pictures.draw(tmp_path / "two", 24)
    assert (tmp_path / "two" / "pictures" / "000.npy").stat().st_mtime_ns == before
    assert all((a == b).all() for a, b in zip(one, two, strict=True))
    assert one[0].shape == (12, pictures.SIDE, pictures.SIDE, 3)
    drawn = {training.scene_of(row).content() for row in classes.tolist()}
    assert not drawn & pictures.reserved()


@pytest.mark.long
def test_training_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "CHUNK", 12)
    monkeypatch.setattr(training, "CHUNK", 12)
    monkeypatch.setattr(training, "BATCH", 4)
    monkeypatch.setattr(training, "TOLD", 2)
    tokenizer = words.write_tokenizer(tmp_path / "tokenizer")
    pictures.draw(tmp_path, 12)
    whole = training.train(tmp_path, tokenizer, steps=2, count=12)
    (tmp_path / "captioner.safetensors").unlink()
    monkeypatch.setattr(training, "cosine", lambda step, total, warmup: (step + 1) / 200)
    training.train(tmp_path, tokenizer, steps=1, count=12)
    parts = training.train(tmp_path, tokenizer, steps=2, count=12)
    for (name, a), b in zip(whole.state_dict().items(), parts.state_dict().values(), strict=True):
        assert (a == b).all(), name


@pytest.mark.parametrize("style", [*pictures.STYLES, pictures.UNSEEN_STYLE])
def test_every_style_paints_every_shape(style):
    scene = parse(TRUTH).resized(160, 96)
    picture = pictures.worn(pictures.paint(style, scene, random.Random(1)), random.Random(2))
    assert picture.size == (160, 96)
