"""What a base predicts is found out on pictures, for either kind, and left open where it cannot be told."""

from __future__ import annotations

import json

import pytest
import torch

from lora_scripts.core.catalogue import render
from lora_scripts.core.problems import ProblemsError
from lora_scripts.families import _source
from lora_scripts.training.prediction import decide, denoising_losses
from tests.contract.conftest import Desk, draw_pictures, write_csv
from tests.families import tiny


@pytest.fixture(scope="module")
def base():
    """The built-in base, which was trained to predict noise."""
    source = _source.resolve("builtin:demo")
    return _source.find("auto", source).load(source)


def items(model, count=2):
    """Smooth pictures' moments: what the base knows, without reading any file."""
    generator = torch.Generator().manual_seed(1)
    found = []
    for _ in range(count):
        pixels = torch.rand((1, 3, 4, 4), generator=generator) * 2 - 1
        pixels = torch.nn.functional.interpolate(pixels, (64, 64), mode="nearest")
        with torch.no_grad():
            moments = model.modules["vae"].encode(pixels).latent_dist.parameters[0]
        found.append({"latents": moments, "text": model.family.prompts(model, ["a"])[0]["prompt_embeds"][0]})
    return found


class Velocity:
    """A base that predicts v with the errors that the built-in one makes in the noise."""

    def __init__(self, model):
        self.family = model.family

    def collate(self, *given):
        return self.family.collate(*given)

    def predict(self, model, batch):
        kept = model.schedule.alphas_cumprod[batch["timesteps"]].view(-1, 1, 1, 1)
        velocity = kept.sqrt() * batch["noise"] - (1 - kept).sqrt() * batch["latents"]
        return velocity + self.family.predict(model, batch) - batch["noise"]


def test_either_kind_is_found_out_on_a_base_that_was_trained(base):
    given = items(base)
    losses = denoising_losses(base.family, base, given)
    assert losses["epsilon"] < 0.5 * losses["v_prediction"]
    assert decide(losses) == "epsilon"
    turned = denoising_losses(Velocity(base), base, given)
    assert decide(turned) == "v_prediction"


def test_the_figures_are_those_of_the_two_targets(base):
    """Predictions that are put in: saying nothing errs by 1 in both, however flat the pictures are, and half
    of a target by a quarter."""

    class Fixed(Velocity):
        def predict(self, model, batch):
            return batch["noise"] * factor

    factor = 0.0
    given = items(base, 1)
    mean, logvar = given[0]["latents"].chunk(2)
    flat = [{**given[0], "latents": torch.cat([mean * 0.01, logvar - 30])}]
    for each in (given, flat):
        nothing = denoising_losses(Fixed(base), base, each)
        assert nothing == pytest.approx({"epsilon": 1.0, "v_prediction": 1.0})
        with pytest.raises(ProblemsError):
            decide(nothing)
    factor = 0.5
    assert denoising_losses(Fixed(base), base, given)["epsilon"] == pytest.approx(0.25)


@pytest.mark.parametrize("losses", [(1.0, 1.0), (0.9, 1.0), (float("nan"), 1.0), (1.0, 0.8), (0.97, 3.0)])
def test_what_is_undecided_is_an_error_with_both_figures(losses):
    with pytest.raises(ProblemsError) as caught:
        decide(dict(zip(("epsilon", "v_prediction"), losses, strict=True)))
    text = render(caught.value.problems[0])
    assert caught.value.problems[0].code == "LS4402"
    assert all(f"{loss:.3f}" in text for loss in losses)


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    root = tmp_path_factory.mktemp("undecided")
    write_csv(root / "pics" / "metadata.csv", draw_pictures(root / "pics", 12))
    base = tiny.write_single(root / "sd2.safetensors", tiny.parts(second=True))
    return Desk(root, base)


@pytest.mark.long
def test_check_says_that_it_will_be_found_out_and_training_shows_both_figures(desk):
    config = desk.config(max_steps=1, resolution=16)
    checked = desk.cli("check", "--config", config)
    assert checked.code == 0, checked.text
    assert "LS4403" in checked.text
    done = desk.train(config)
    assert done.code == 2, done.text
    assert "LS4402" in done.text, "random weights predict neither"


@pytest.mark.long
def test_what_was_found_out_is_kept_with_the_run(desk, monkeypatch):
    from lora_scripts.training import prediction

    monkeypatch.setattr(prediction, "denoising_losses", lambda *_: {"epsilon": 2.0, "v_prediction": 0.5})
    done = desk.train(desk.config(max_steps=1, resolution=16, output_dir="output/v"))
    assert done.code == 0, done.text
    assert "v_prediction" in done.text
    assert "prediction_type: v_prediction" in (desk.root / "output/v/config.yaml").read_text()
    from safetensors import safe_open

    with safe_open(desk.root / "output/v/v.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata["ss_base_model_version"] == "sd_v2_v"
    assert json.loads(metadata["lora_scripts_config"])["prediction_type"] == "v_prediction"
