"""M7: fp16 mixed precision, gradient accumulation, gradient checkpointing."""

import pytest


@pytest.mark.long
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_m07_half_precision_trains_close_to_full(make_desk, precision):
    close_to_full(make_desk(), precision)


@pytest.mark.parametrize("precision", ["fp16", pytest.param("bf16", marks=pytest.mark.long)])
def test_m07_half_precision_of_texts_trains_close_to_full(make_text_desk, precision):
    close_to_full(make_text_desk(), precision, validation={"split": 0.2})


def close_to_full(desk, precision, **options):
    losses: dict[str, float] = {}
    for mode in (precision, "no"):
        config = desk.config(mixed_precision=mode, output_dir=f"output/{mode}", max_steps=4, **options)
        done = desk.train(config)
        assert done.code == 0, done.text
        losses[mode] = desk.result(f"output/{mode}")["validation_loss_after"]
    assert losses[precision] == pytest.approx(losses["no"], rel=2e-2)
    assert losses[precision] != losses["no"]


@pytest.mark.long
def test_m07_accumulation_and_checkpointing_give_the_same_gradients(make_desk):
    desk = make_desk()
    losses = []
    for number, changes in enumerate(
        (
            {"batch_size": 4},
            {"batch_size": 4, "gradient_checkpointing": True},
        )
    ):
        done = desk.train(desk.config(output_dir=f"output/{number}", max_steps=4, **changes))
        assert done.code == 0, done.text
        losses.append(desk.result(f"output/{number}")["validation_loss_after"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    done = desk.train(
        desk.config(output_dir="output/accumulated", max_steps=4, batch_size=1, gradient_accumulation_steps=4)
    )
    assert done.code == 0, done.text
