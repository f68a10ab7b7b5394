"""The demo's first step: bare pictures, and how their captions are counted."""

import csv

from PIL import Image, ImageChops

from demo import labeled, verdict
from demo.dataset import TRAINING
from demo.neon import tagged
from demo.world import describe


def test_pictures_are_bare_and_those_of_the_known_set(tmp_path):
    (tmp_path / "metadata.csv").write_text("of an earlier call")
    (tmp_path / "city_99.png").write_text("of an earlier call")
    scenes = labeled.draw(tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == labeled.names(scenes) == sorted(path.name for path in TRAINING.glob("*.png"))
    for name in names[:4]:
        with Image.open(tmp_path / name) as one, Image.open(TRAINING / name) as other:
            assert ImageChops.difference(one, other).getbbox() is None


def test_right_captions_are_counted(tmp_path):
    scenes = labeled.sets()[0][:4]
    captions = [tagged(describe(scene)) for scene in scenes]
    captions[1] = captions[1].replace(scenes[1].things[0].colour, "grey")
    weather = describe(scenes[2]).split(", ")[-2]
    captions[2] = captions[2].replace(weather, "in the fog" if weather != "in the fog" else "clear sky")
    with (tmp_path / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(
            [("file_name", "text"), *zip(labeled.names(scenes), captions, strict=True)][:-1]
        )
    right, whole = labeled.right(tmp_path, scenes)
    assert right == ["city_01.png", "city_03.png"]
    assert whole == 1


def test_bad_captions_fail_the_demo():
    result = {"validation_loss_before": 0.3, "validation_loss_after": 0.2}
    assert not verdict.reasons(result | {"captions_right": 0.95}, [0.4, 0.1])
    assert len(verdict.reasons(result | {"captions_right": 0.5}, [0.4, 0.1])) == 1
