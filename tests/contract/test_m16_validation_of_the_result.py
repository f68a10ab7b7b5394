"""M16: validation of the result is part of the flow: held-out loss, previews, generate and compare."""

import pytest
from PIL import Image


def test_m16_the_result_says_whether_it_got_better(trained):
    result = trained.result()
    assert result["validation_loss_before"] > result["validation_loss_after"] > 0
    assert result["best_step"] in (4, 8)
    assert (trained.root / "output/my_style/my_style-best.safetensors").exists()


def test_m16_previews_and_one_sheet_of_them_are_there(trained):
    previews = trained.root / "output/my_style/previews"
    assert sorted(path.name for path in previews.glob("step-*")) == ["step-000004", "step-000008"]
    assert len(list(previews.glob("step-000008/*.png"))) == 2
    with Image.open(previews / "sheet.png") as sheet:
        assert sheet.width > 32


@pytest.mark.long
def test_m16_previews_validation_and_saves_change_nothing(trained):
    bare = trained.config(
        "bare.yaml",
        output_dir="output/bare",
        output_name="my_style",
        trigger_word="mystyle",
        lora_alpha=2,
        save_steps=100,
        logging={"tensorboard": False},
        validation={"split": 0.1, "every_steps": 1000},
    )
    assert trained.train(bare).code == 0
    files = [trained.root / "output" / run / "my_style.safetensors" for run in ("bare", "my_style")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_m16_generate_makes_a_strength_grid(trained):
    done = trained.cli(
        "generate",
        "--base",
        trained.base,
        "--lora",
        "output/my_style/my_style.safetensors",
        "--prompt",
        "a red house",
        "--steps",
        2,
        "--width",
        16,
        "--height",
        16,
        "--strengths",
        "0,0.5,1",
        "--output",
        "grid.png",
    )
    assert done.code == 0, done.text
    with Image.open(trained.root / "grid.png") as grid:
        assert grid.width > grid.height
