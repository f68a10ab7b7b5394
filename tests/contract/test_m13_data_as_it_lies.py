"""M13: pictures are learnt from as creators keep them: kohya's folders, GBK captions, several data sets."""

from __future__ import annotations

import json
import shutil

import pytest
from PIL import Image, ImageDraw

from tests.contract.conftest import draw_pictures


def kohya(root, name="kohya"):
    """``3_赛博城市`` with captions in GBK and UTF-16, ``1_house`` without any, a picture beside them."""
    rows = draw_pictures(root / name / "3_赛博城市", 6, ((32, 24), (24, 32)))
    for number, (picture, _) in enumerate(rows):
        encoding = "utf-16" if number == 0 else "gb18030"
        caption = (root / name / "3_赛博城市" / picture).with_suffix(".txt")
        caption.write_bytes(f"赛博朋克城市, 霓虹灯, 雨夜, 第{number}张".encode(encoding))
    draw_pictures(root / name / "1_house", 3)
    draw_pictures(root / name, 1)


def weights(desk, output):
    return (desk.root / "output" / output / "pytorch_lora_weights.safetensors").read_bytes()


def test_m13_kohya_s_own_layout_with_gbk_captions_trains_as_it_lies(make_desk):
    desk = make_desk()
    kohya(desk.root)
    config = desk.config(
        train_data_dir="./kohya", output_dir="output/k", validation={"split": 0}, max_steps=3
    )
    done = desk.train(config)
    assert done.code == 0, done.text
    text = " ".join(done.text.split())
    assert "Trained on: 9, with repeats 21 in each epoch." in text
    assert "LS2400" in text and "img00.png" in text  # noqa: PT018 - one sentence
    assert "LS2402" in text
    assert "LS2403" in text and "赛博朋克城市" in text  # noqa: PT018
    data = json.loads((desk.root / "output/k/data.json").read_text(encoding="utf-8"))["train"]
    assert data["3_赛博城市/img00.png"]["caption"] == "赛博朋克城市, 霓虹灯, 雨夜, 第0张"
    assert data["3_赛博城市/img05.png"]["repeats"] == 3
    assert data["1_house/img00.png"]["caption"] == "house"


EVERYTHING = {
    "shuffle_caption": True,
    "keep_tokens": 1,
    "caption_prefix": "photo of",
    "caption_suffix": ", good",
    "caption_dropout_rate": 0.3,
    "random_flip": True,
    "max_caption_tokens": 150,
    "resolution": [16, 24],
    "loss_mask": "alpha",
    "prior_loss_weight": 0.5,
    "batch_size": 2,
}


@pytest.mark.long
@pytest.mark.parametrize(
    "more",
    [{}, pytest.param({"train_text_encoder": True, "random_crop": True}, marks=pytest.mark.slow)],
    ids=["cached", "drawn anew"],
)
def test_m13_every_rule_at_once_resumes_with_the_same_bytes(make_desk, more):
    desk = make_desk()
    kohya(desk.root)
    for path in (desk.root / "kohya" / "3_赛博城市").glob("*.png"):
        with Image.open(path) as picture:
            clear = picture.convert("RGBA")
        mask = Image.new("L", clear.size)
        ImageDraw.Draw(mask).rectangle((4, 4, 20, 20), fill=255)
        clear.putalpha(mask)
        clear.save(path)
    sets = [
        {"path": "./kohya", "trigger_word": "neon"},
        {"path": "./pics", "regularization": True, "repeats": 2, "shuffle_caption": False},
    ]
    options = EVERYTHING | more | {"datasets": sets, "train_data_dir": None, "output_name": "same"}
    config = desk.config("all.yaml", output_dir="output/straight", **options)
    done = desk.train(config)
    assert done.code == 0, done.text
    assert "Regularization pictures among them: 22" in done.text
    cut = desk.root / "output" / "cut"
    shutil.copytree(desk.root / "output" / "straight", cut)
    (cut / "result.json").unlink()
    shutil.rmtree(cut / "checkpoints" / "step-000008")
    for late in cut.glob("*.safetensors"):
        if "step000004" not in late.name:
            late.unlink()
    again = desk.train(config, "--output-dir", "output/cut", "--resume")
    assert again.code == 0, again.text
    assert "step-000004" in again.text
    assert weights(desk, "cut") == weights(desk, "straight")
    repeated = desk.train("output/straight/config.yaml", "--output-dir", "output/repeated")
    assert repeated.code == 0, repeated.text
    assert weights(desk, "repeated") == weights(desk, "straight")


def test_m13_a_mistake_in_a_list_of_data_sets_is_named_with_its_line(make_desk):
    desk = make_desk()
    (desk.root / "bad.yaml").write_text(
        "base_model: builtin:demo\noutput_dir: ./o\ndatasets:\n  - path: ./pics\n    weight: 2\n"
        "  - path: ./pics\n    repeat: 3\n",
        encoding="utf-8",
    )
    done = desk.cli("check", "--config", "bad.yaml")
    assert done.code == 2
    assert "bad.yaml:7:5" in done.text
    assert "repeats" in done.text
    text = (desk.root / "bad.yaml").read_text(encoding="utf-8").replace("repeat:", "repeats:")
    (desk.root / "bad.yaml").write_text(text, encoding="utf-8")
    done = desk.cli("check", "--config", "bad.yaml")
    assert done.code == 2
    assert "bad.yaml:5:5" in done.text
    assert "LS1022" in done.text


def test_m13_words_that_are_cut_are_shown(make_desk):
    desk = make_desk()
    (desk.root / "pics" / "metadata.csv").write_text(
        'img00.png,"' + "a red house, " * 30 + 'the very last words"\nimg01.png,"a (red:1.2) house"\n',
        encoding="utf-8",
    )
    config = desk.config(validation={"split": 0})
    done = desk.cli("check", "--config", config)
    assert done.code == 0, done.text
    text = " ".join(done.text.split())
    assert "longer than 75 tokens" in text
    assert "(124)" in text, "30 times four tokens and four more"
    assert "LS2431" in text
    longer = desk.cli("check", "--config", config, "--set", "max_caption_tokens=150")
    assert "LS2430" not in longer.text
