"""Settings of sd-scripts for SD3 and FLUX, and its trackers, as keys of ours or with a reason why not."""

from __future__ import annotations

import pytest

from tests.toolbox.test_import_config import form, keys, lost, training

FLUX = """
network_module = "networks.lora_flux"
network_train_unet_only = true
clip_l = "/m/clip_l.safetensors"
t5xxl = "/m/t5.safetensors"
ae = "/m/ae.safetensors"
guidance_scale = 1.0
model_prediction_type = "raw"
"""


@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        ('timestep_sampling = "shift"\ndiscrete_flow_shift = 3.1582\nsigmoid_scale = 0.8',
         {"timestep_sampling": "logit_normal", "logit_std": 0.8, "discrete_flow_shift": 3.1582}),
        ('timestep_sampling = "sigmoid"\ndiscrete_flow_shift = 3.1',
         {"timestep_sampling": "logit_normal", "logit_std": 1, "discrete_flow_shift": 1}),
        ('timestep_sampling = "flux_shift"',
         {"timestep_sampling": "logit_normal", "logit_std": 1, "discrete_flow_shift": "resolution"}),
        ('timestep_sampling = "uniform"', {"timestep_sampling": "uniform", "discrete_flow_shift": 1}),
        ("", {"timestep_sampling": "uniform", "discrete_flow_shift": 3}),
        ('weighting_scheme = "logit_normal"\nlogit_mean = 0.5',
         {"timestep_sampling": "logit_normal", "logit_mean": 0.5, "logit_std": 1, "discrete_flow_shift": 3}),
        ('weighting_scheme = "mode"\nmode_scale = 0.9',
         {"timestep_sampling": "mode", "mode_scale": 0.9, "discrete_flow_shift": 3}),
        ('weighting_scheme = "cosmap"',
         {"timestep_sampling": "uniform", "weighting_scheme": "cosmap", "discrete_flow_shift": 3}),
    ],
)  # fmt: skip
def test_flow_matching(tmp_path, more, wanted):
    done = training(tmp_path, FLUX + more + "\n")
    assert done.notes == ()
    told = {"timestep_sampling", "logit_mean", "logit_std", "mode_scale", "discrete_flow_shift",
            "weighting_scheme"}  # fmt: skip
    assert {name: value for name, value in done.values.items() if name in told} == wanted
    assert done.values["guidance_scale"] == 1
    assert done.values["train_text_encoder"] is False
    assert done.values["components"] == {
        "text_encoder": "/m/clip_l.safetensors", "text_encoder_2": "/m/t5.safetensors",
        "vae": "/m/ae.safetensors",
    }  # fmt: skip


def test_what_flow_matching_cannot_take_along_has_a_reason(tmp_path):
    more = """
network_module = "networks.lora_sd3"
clip_g = "/m/g"
t5xxl = "/m/t5"
train_t5xxl = true
text_encoder_lr = [1e-5, 1e-5]
apply_t5_attn_mask = true
t5xxl_max_token_length = 256
model_prediction_type = "sigma_scaled"
training_shift = 2.5
blocks_to_swap = 18
"""
    done = training(tmp_path, more)
    assert keys(done) == {
        "import.flow.encoders", "import.flow.attention", "import.flow.tokens", "import.flow.prediction"
    }  # fmt: skip
    assert lost(done) == {"blocks_to_swap"}
    assert done.values["components"] == {"text_encoder_2": "/m/g", "text_encoder_3": "/m/t5"}
    assert done.values["discrete_flow_shift"] == 2.5
    assert "guidance_scale" not in done.values
    assert "text_encoder_learning_rate" not in done.values


def test_a_form_for_flux_keeps_its_defaults(tmp_path):
    done = form(tmp_path, flux1_checkbox=True, timestep_sampling="sigma", discrete_flow_shift=3,
                guidance_scale=3.5, weighting_scheme="logit_normal")  # fmt: skip
    wanted = {"timestep_sampling": "logit_normal", "discrete_flow_shift": 3, "guidance_scale": 3.5}
    assert {name: done.values[name] for name in wanted} == wanted
    assert "timestep_sampling" not in form(tmp_path, timestep_sampling="sigma").values


def test_trackers_are_carried_over_and_keys_never(tmp_path):
    done = training(
        tmp_path,
        'log_with = "wandb"\nlog_tracker_name = "faces"\nwandb_run_name = "a"\nwandb_api_key = "sk-1"\n',
    )
    assert done.values["logging"] == {
        "trackers": ["wandb"], "tracker_project": "faces", "tracker_run_name": "a"
    }  # fmt: skip
    assert "sk-1" not in done.text
    assert keys(done) == {"import.secret"}
    assert "logging" not in training(tmp_path, 'log_with = "tensorboard"\n').values
