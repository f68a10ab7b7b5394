"""M4: Stable Diffusion 1.x and 2.x, from folder and single file, in every way that their users know."""

import json

import pytest
from safetensors import safe_open

from tests.contract.conftest import Desk, draw_pictures, write_csv
from tests.families import tiny

QUICK = {"max_steps": 2, "save_steps": 2, "resolution": 16, "logging": {"tensorboard": False}}


@pytest.fixture(scope="module")
def second(tmp_path_factory) -> Desk:
    root = tmp_path_factory.mktemp("sd2")
    write_csv(root / "pics" / "metadata.csv", draw_pictures(root / "pics", 22))
    return Desk(
        root, tiny.write_folder(root / "sd2", tiny.parts(second=True), prediction_type="v_prediction")
    )


def header(path):
    with safe_open(path, "pt") as file:
        return list(file.keys()), file.metadata()


ALL = {**QUICK, "validation": {"split": 0}}


@pytest.mark.long
def test_m04_a_v_prediction_base_of_two_gives_a_file_that_clients_file_as_such(second):
    options = {"train_text_encoder": True, "zero_terminal_snr": True, "min_snr_gamma": 5, **ALL}
    done = second.train(second.config(output_name="two", **options))
    assert done.code == 0, done.text
    assert "Stable Diffusion 2.x" in done.out
    names, metadata = header(second.root / "output/my_style/two.safetensors")
    assert metadata["ss_v2"] == "True"
    assert metadata["ss_base_model_version"] == "sd_v2_v"
    assert {name.split("_")[1] for name in names} == {"unet", "te"}
    assert second.result()["readback"]["layers"]["text_encoder"] == 12
    said = second.cli("inspect", "output/my_style/two.safetensors")
    assert "Stable Diffusion 2.x" in said.text


@pytest.mark.slow
def test_m04_a_single_file_of_two_trains_offline(second):
    parts = tiny.parts(second=True)
    path = tiny.write_single(second.root / "two.safetensors", parts, markers=("v_pred",))
    config = second.config(base_model=str(path), output_dir="output/single", **ALL)
    done = second.train(config)
    assert done.code == 0, done.text
    _, metadata = header(second.root / "output/single/single.safetensors")
    assert metadata["ss_base_model_version"] == "sd_v2_v"


@pytest.mark.long
def test_m04_convolutions_dora_rates_and_ranks_by_layer(desk):
    options = {
        "conv_rank": 2, "use_dora": True, "use_rslora": True, "rank_pattern": {"mid_block.*": 6},
        "lr_pattern": {"down_blocks.*": 0.5}, "clip_skip": 2, "loss_type": "huber", "noise_offset": 0.05,
    }  # fmt: skip
    config = desk.config(output_dir="output/wide", **options, **ALL)
    checked = desk.cli("check", "--config", config)
    assert checked.code == 0, checked.text
    assert "LS4404" in checked.text
    assert "lora-scripts merge" in checked.text
    done = desk.train(config)
    assert done.code == 0, done.text
    names, metadata = header(desk.root / "output/wide/wide.safetensors")
    assert "lora_unet_down_blocks_0_resnets_0_conv1.dora_scale" in names
    assert metadata["ss_clip_skip"] == "2"
    events = (desk.root / "output/wide/events.jsonl").read_text(encoding="utf-8").splitlines()
    rates = next(e["data"]["learning_rates"] for e in map(json.loads, events) if e["type"] == "step")
    assert rates == {"predictor": 2e-3, "predictor x0.5": 1e-3}


@pytest.mark.long
def test_m04_training_goes_on_from_an_earlier_lora(desk):
    first = desk.train(desk.config(output_dir="output/first", **QUICK))
    assert first.code == 0, first.text
    earlier = "output/first/first.safetensors"
    config = desk.config(output_dir="output/second", init_from=earlier, lora_rank=6, lora_alpha=3, **QUICK)
    done = desk.train(config)
    assert done.code == 0, done.text
    end, start = (desk.result(f"output/{name}") for name in ("first", "second"))
    assert start["validation_loss_before"] == pytest.approx(end["validation_loss_after"], rel=1e-4), (
        "it begins where that one ended"
    )
    assert abs(end["validation_loss_before"] - end["validation_loss_after"]) > 1e-3, "which is elsewhere"
    refused = desk.cli("check", "--config", desk.config(init_from=earlier, lora_rank=2, **QUICK))
    assert refused.code == 2
    assert "LS4413" in refused.text


@pytest.mark.parametrize(
    ("code", "options"),
    [
        ("LS4400", {"min_snr_gamma": 5, "debiased_estimation_loss": True}),
        ("LS4401", {"zero_terminal_snr": True}),
        ("LS4405", {"rank_pattern": {"midblock": 8}}),
        ("LS4405", {"lr_pattern": {"text_encoder.*": 0.5}}),
        ("LS4021", {"rank_pattern": {"mid_block.(": 8}}),
        ("LS4406", {"clip_skip": 3}),
        ("LS4407", {"conv_alpha": 4}),
        ("LS4408", {"optimizer": "prodigy", "learning_rate": 1.0, "lr_pattern": {"mid_block.*": 2.0}}),
        ("LS1101", {"init_from": "./gone.safetensors"}),
    ],
)
def test_m04_what_does_not_go_together_is_said_before_training(desk, code, options):
    checked = desk.cli("check", "--config", desk.config(**options, **QUICK))
    assert checked.code == 2, checked.text
    assert code in checked.text


def test_m04_clip_skip_of_a_base_that_has_none_is_refused(second):
    checked = second.cli("check", "--config", second.config(clip_skip=2, **QUICK))
    assert checked.code == 2
    assert "LS1021" in checked.text
