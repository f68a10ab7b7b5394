"""A run cut in two leaves the bytes of one that was not: every optimizer, whatever else is trained."""

from __future__ import annotations

import itertools

import pytest

from tests.contract.conftest import make_desk, tiny_base  # noqa: F401 - fixtures
from tests.contract.several import TWO, train

OPTIMIZERS = ("adamw", "adamw8bit", "adafactor", "prodigy", "schedulefree")
RATES = {"prodigy": 1.0}
FEW = [("adamw8bit", True, True), ("schedulefree", True, False)]
ALL = list(itertools.product(OPTIMIZERS, (False, True), (False, True)))
PICTURES = {
    "random_crop": {"random_crop": True, "random_flip": True, "resolution": 16},
    "losses": {"min_snr_gamma": 5, "loss_type": "huber", "noise_offset": 0.05, "lora_dropout": 0.1},
    "layers": {
        "conv_rank": 2, "use_dora": True, "rank_pattern": {"mid_block.*": 6}, "lr_pattern": {"down.*": 0.5},
    },
}  # fmt: skip


def cut_in_two(desk, *, processes=1, **options):
    """The bytes of a run of six steps, and of one that ended after three and was resumed."""
    common = {"max_steps": 6, "save_steps": 3, "output_name": "same", "lr_scheduler": "constant", **options}

    def run(output, *words):
        desk.config(output_dir=f"output/{output}", **common, logging={"tensorboard": False})
        return train(desk, *TWO, *words) if processes == 2 else desk.train("run.yaml", "--set", *words)

    whole = run("whole", "max_steps=6")
    assert whole.code == 0, whole.text
    first = run("cut", "max_steps=3")
    assert first.code == 0, first.text
    (desk.root / "output/cut/result.json").unlink()  # as if it had been killed before it was finished
    second = run("cut", "max_steps=6")
    assert second.code == 0, second.text
    assert "going on from step-000003" in second.out
    files = [desk.root / "output" / run / "same.safetensors" for run in ("whole", "cut")]
    moved = (desk.root / "output/whole/same-step000003.safetensors").read_bytes()
    found = [file.read_bytes() for file in files]
    assert moved != found[0], "the second half has changed something"
    return found


def options_of(optimizer, text, average):
    return {
        "optimizer": optimizer,
        "learning_rate": RATES.get(optimizer, 2e-3),
        "train_text_encoder": text,
        "ema_decay": 0.9 if average else None,
        "warmup_steps": 2 if optimizer != "schedulefree" else None,
    }


@pytest.mark.long
@pytest.mark.parametrize(("optimizer", "text", "average"), FEW)
def test_resume_gives_equal_bytes(make_desk, optimizer, text, average):  # noqa: F811
    whole, cut = cut_in_two(make_desk(), **options_of(optimizer, text, average))
    assert whole == cut


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "text", "average"), [each for each in ALL if each not in FEW])
def test_resume_gives_equal_bytes_in_every_combination(make_desk, optimizer, text, average):  # noqa: F811
    whole, cut = cut_in_two(make_desk(), **options_of(optimizer, text, average))
    assert whole == cut


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_resume_gives_equal_bytes_with_crops_drawn_anew(make_desk, optimizer):  # noqa: F811
    """Several micro-batches a window, the text encoder trained along, and an average of it all."""
    crops = {**PICTURES["random_crop"], "batch_size": 2, "gradient_accumulation_steps": 2}
    whole, cut = cut_in_two(make_desk(), **crops, **options_of(optimizer, True, optimizer != "schedulefree"))
    assert whole == cut


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("more", [False, True], ids=["", "crops, text encoder, average"])
def test_resume_gives_equal_bytes_on_two_processes(make_desk, optimizer, more):  # noqa: F811
    share = {"batch_size": 2, "gradient_accumulation_steps": 3, **(PICTURES["random_crop"] if more else {})}
    whole, cut = cut_in_two(make_desk(), processes=2, **share, **options_of(optimizer, more, more))
    assert whole == cut


@pytest.mark.slow
@pytest.mark.parametrize("name", PICTURES)
def test_resume_gives_equal_bytes_with_what_pictures_add(make_desk, name):  # noqa: F811
    whole, cut = cut_in_two(make_desk(), optimizer="adamw", **PICTURES[name])
    assert whole == cut


@pytest.mark.slow
def test_an_optimizers_lost_state_would_be_seen(make_desk, monkeypatch):  # noqa: F811
    """The matrix can fail: without the optimizer's state the bytes differ."""
    from lora_scripts.training import optimizers

    monkeypatch.setattr(optimizers, "unpack_state", lambda *_: None)
    whole, cut = cut_in_two(make_desk(), optimizer="adamw")
    assert whole != cut
