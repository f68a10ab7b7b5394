"""Settings of sd-scripts and kohya_ss: each value's meaning is carried over, or it is told that it is not."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from lora_scripts.config.load import load_config
from lora_scripts.core.catalogue import use_language
from lora_scripts.core.problems import ProblemsError
from lora_scripts.toolbox.import_config import import_config

FORM = {
    "LoRA_type": "Standard", "LyCORIS_preset": "full", "additional_parameters": "", "adaptive_noise_scale": 0,
    "bucket_no_upscale": True, "bucket_reso_steps": 64, "cache_latents": True, "caption_extension": ".txt",
    "clip_skip": 1, "color_aug": False, "conv_alpha": 1, "conv_dim": 8, "enable_bucket": True, "epoch": 10,
    "factor": -1, "flip_aug": False, "gradient_accumulation_steps": 1, "gradient_checkpointing": False,
    "huber_c": 0.1, "huber_schedule": "snr", "keep_tokens": 0, "learning_rate": 0.0001, "loss_type": "l2",
    "lr_scheduler": "cosine", "lr_warmup": 0, "lr_warmup_steps": 0, "max_grad_norm": 1,
    "max_resolution": "512,512", "max_timestep": 1000, "max_token_length": 75, "max_train_epochs": 0,
    "max_train_steps": 0, "min_snr_gamma": 0, "mixed_precision": "bf16", "multires_noise_discount": 0.3,
    "network_alpha": 16, "network_dim": 32, "noise_offset": 0, "num_processes": 1, "optimizer": "AdamW8bit",
    "optimizer_args": "", "output_dir": "/out", "output_name": "my_style", "prior_loss_weight": 1,
    "pretrained_model_name_or_path": "/m/sd.safetensors", "sample_prompts": "", "save_every_n_steps": 200,
    "save_model_as": "safetensors", "save_precision": "fp16", "seed": 7, "shuffle_caption": False,
    "text_encoder_lr": 5e-05, "train_batch_size": 2, "train_data_dir": "/pics", "unet_lr": 0.0002,
    "v2": False, "wandb_api_key": "", "xformers": "xformers", "weighting_scheme": "logit_normal", "unit": 1,
}  # fmt: skip
TRAINING = """
[model]
pretrained_model_name_or_path = "/m/sd.safetensors"
[network]
network_dim = 16
network_alpha = 8
[rest]
train_data_dir = "/pics"
resolution = "512,512"
enable_bucket = true
learning_rate = 1e-4
max_train_steps = 1000
seed = 7
output_dir = "/out"
mixed_precision = "fp16"
"""
DATA = """
[general]
enable_bucket = true
shuffle_caption = true
[[datasets]]
resolution = 512
batch_size = 4
  [[datasets.subsets]]
  image_dir = '/data/a'
  num_repeats = 10
  keep_tokens = 1
  flip_aug = true
  [[datasets.subsets]]
  image_dir = '/data/reg'
  is_reg = true
  shuffle_caption = false
[[datasets]]
resolution = [768, 768]
batch_size = 4
  [[datasets.subsets]]
  image_dir = '/data/b'
  caption_prefix = 'photo, '
  flip_aug = true
"""


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def form(tmp_path, **changes):
    return import_config([write(tmp_path / "form.json", {**FORM, **changes})])


def training(tmp_path, more="", name="training.toml"):
    return import_config([write(tmp_path / name, TRAINING + more)])


def keys(done, kind="changed"):
    return {note.key for note in done.notes if note.kind == kind}


def lost(done):
    return {note.params["name"] for note in done.notes if note.kind == "lost"}


def test_a_form_that_means_the_same_is_carried_over_without_a_word(tmp_path):
    done = form(tmp_path)
    assert done.notes == ()
    assert done.values == {
        "train_data_dir": "/pics", "resolution": 512, "base_model": "/m/sd.safetensors", "lora_rank": 32,
        "lora_alpha": 16, "train_text_encoder": True, "batch_size": 2, "gradient_accumulation_steps": 1,
        "epochs": 10, "learning_rate": 0.0002, "text_encoder_learning_rate": 5e-05, "clip_skip": 1,
        "optimizer": "adamw8bit", "lr_scheduler": "cosine", "max_grad_norm": 1, "mixed_precision": "bf16",
        "max_caption_tokens": 75, "seed": 7, "output_dir": "/out", "output_name": "my_style",
        "save_steps": 200, "prior_loss_weight": 1,
    }  # fmt: skip
    (tmp_path / "ours.yaml").write_text(done.text, encoding="utf-8")
    assert load_config(tmp_path / "ours.yaml").alpha == 16


def test_the_default_alpha_of_the_other_trainer_is_one(tmp_path):
    done = import_config([write(tmp_path / "t.toml", TRAINING.replace("network_alpha = 8\n", ""))])
    assert done.values["lora_alpha"] == 1
    assert keys(done) == {"import.alpha"}
    assert training(tmp_path).values["lora_alpha"] == 8
    assert training(tmp_path).notes == ()


def test_convolutions_only_where_the_method_has_them(tmp_path):
    assert "conv_rank" not in form(tmp_path).values
    done = form(tmp_path, LoRA_type="Kohya LoCon", conv_dim=8, conv_alpha=4)
    assert (done.values["conv_rank"], done.values["conv_alpha"]) == (8, 4)
    done = training(tmp_path, 'network_args = ["conv_dim=8", "dora_wd=True", "module_dropout=0.1"]\n')
    assert (done.values["conv_rank"], done.values["conv_alpha"], done.values["use_dora"]) == (8, 1, True)
    assert keys(done) == {"import.conv_alpha"}
    assert lost(done) == {"network_args module_dropout"}
    assert keys(form(tmp_path, LoRA_type="LyCORIS/LoHa")) == {"import.method"}


def test_which_parts_are_trained_and_how_fast(tmp_path):
    unet = form(tmp_path, text_encoder_lr=0)
    assert unet.values["train_text_encoder"] is False
    assert "text_encoder_learning_rate" not in unet.values
    assert keys(form(tmp_path, unet_lr=0)) == {"import.text_only"}
    both = form(tmp_path, unet_lr=0, text_encoder_lr=0)
    assert (both.values["learning_rate"], both.values["train_text_encoder"]) == (0.0001, True)
    assert training(tmp_path, "network_train_unet_only = true\n").values["train_text_encoder"] is False


def test_lengths(tmp_path):
    assert form(tmp_path, max_train_steps="1600").values["max_steps"] == 1600
    assert form(tmp_path, max_train_epochs=3, max_train_steps=900).values["epochs"] == 3
    default = import_config([write(tmp_path / "t.toml", TRAINING.replace("max_train_steps = 1000\n", ""))])
    assert default.values["max_steps"] == 1600
    assert keys(default) == {"import.no_steps"}
    done = form(tmp_path, save_every_n_steps=0, save_every_n_epochs=2)
    assert keys(done) == {"import.save_epochs"}


def test_a_warm_up_is_steps_and_a_constant_schedule_has_none(tmp_path):
    done = form(tmp_path, lr_warmup=10, max_train_steps=500)
    assert done.values["warmup_steps"] == 50
    assert keys(done) == {"import.warmup"}
    assert "lr_warmup" in lost(form(tmp_path, lr_warmup=10))
    done = training(tmp_path, 'lr_scheduler = "constant"\nlr_warmup_steps = 100\n')
    assert "warmup_steps" not in done.values
    assert keys(done) == {"import.no_warmup"}
    done = training(tmp_path, 'lr_scheduler = "constant_with_warmup"\nlr_warmup_steps = 100\n')
    assert (done.values["lr_scheduler"], done.values["warmup_steps"]) == ("constant", 100)
    done = training(tmp_path, 'lr_scheduler = "linear"\nlr_warmup_steps = 0.05\n')
    assert done.values["warmup_steps"] == 50


@pytest.mark.parametrize(
    ("name", "ours", "told"),
    [
        ("AdamW", "adamw", set()),
        ("PagedAdamW8bit", "adamw8bit", {"import.optimizer"}),
        ("bitsandbytes.optim.AdamW8bit", "adamw8bit", set()),
        ("AdaFactor", "adafactor", set()),
        ("prodigy", "prodigy", {"import.rate"}),
        ("AdamWScheduleFree", "schedulefree", set()),
        ("DAdaptLion", "adamw", {"import.optimizer"}),
    ],
)
def test_optimizers(tmp_path, name, ours, told):
    done = training(tmp_path, f'optimizer_type = "{name}"\n')
    assert done.values["optimizer"] == ours
    assert keys(done) == told
    assert done.values["learning_rate"] == (1 if ours == "prodigy" else 1e-4)


def test_arguments_of_the_optimizer(tmp_path):
    done = training(tmp_path, 'optimizer_args = ["weight_decay=0.1", "betas=0.9,0.99"]\n')
    assert done.values["weight_decay"] == 0.1
    assert lost(done) == {"optimizer_args betas"}
    done = training(tmp_path, 'optimizer_type = "AdamWScheduleFree"\nlr_scheduler = "cosine"\n')
    assert done.values["lr_scheduler"] == "constant"
    assert keys(done) == {"import.own_schedule"}


def test_losses_and_noise(tmp_path):
    done = form(
        tmp_path, min_snr_gamma=5, noise_offset=0.05, loss_type="huber", huber_c=0.2, zero_terminal_snr=True,
        v_parameterization=True, ip_noise_gamma=0.1, debiased_estimation_loss=True,
        multires_noise_iterations=6,
    )  # fmt: skip
    wanted = {"min_snr_gamma": 5, "noise_offset": 0.05, "loss_type": "huber", "huber_c": 0.2,
              "huber_schedule": "snr",
              "zero_terminal_snr": True, "prediction_type": "v_prediction"}  # fmt: skip
    assert {name: done.values[name] for name in wanted} == wanted
    assert lost(done) == {"ip_noise_gamma", "debiased_estimation_loss", "multires_noise_iterations"}


def test_data_sets_of_a_table(tmp_path):
    write(tmp_path / "data.toml", DATA)
    done = training(tmp_path, 'dataset_config = "/elsewhere/data.toml"\n')
    assert done.values["datasets"] == [
        {"path": "/data/a", "repeats": 10, "shuffle_caption": True, "keep_tokens": 1},
        {"path": "/data/reg", "regularization": True},
        {"path": "/data/b", "caption_prefix": "photo, ", "shuffle_caption": True},
    ]
    assert (done.values["resolution"], done.values["batch_size"]) == ([512, 768], 4)
    assert done.values["random_flip"] is True
    assert keys(done) == {"import.everywhere", "import.regularization"}


def test_one_data_set_stands_at_the_top_and_base_and_folder_are_asked_for(tmp_path):
    table = "[[datasets]]\nresolution = 640\nenable_bucket = true\n[[datasets.subsets]]\n"
    table += "image_dir = '/a'\ncaption_dropout_rate = 0.1\ncolor_aug = true\n"
    done = import_config([write(tmp_path / "data.toml", table)])
    assert done.values["train_data_dir"] == "/a"
    assert done.values["caption_dropout_rate"] == 0.1
    assert (keys(done), lost(done)) == ({"import.unsaid"}, {"color_aug"})


def test_areas_shapes_and_folders(tmp_path):
    done = form(tmp_path, max_resolution="512,768", enable_bucket=False, reg_data_dir="/reg")
    assert done.values["resolution"] == 640
    assert done.values["datasets"] == [{"path": "/reg", "regularization": True}]
    assert keys(done) == {"import.resolution", "import.buckets", "import.regularization"}


def test_a_command_line(tmp_path):
    script = (
        "accelerate launch --num_processes 2 sd-scripts/train_network.py \\\n"
        '  --pretrained_model_name_or_path="/m/a b.safetensors" --train_data_dir=/d --enable_bucket \\\n'
        "  --network_dim 8 --network_alpha 4 --optimizer_args weight_decay=0.2 betas=0.9,0.99 --seed 1 \\\n"
        "  --learning_rate 1e-4 --max_train_steps 10 --train_batch_size 2 --network_train_unet_only\n"
    )
    done = import_config([write(tmp_path / "run.sh", script)])
    assert done.values["base_model"] == "/m/a b.safetensors"
    assert (done.values["batch_size"], done.values["weight_decay"]) == (4, 0.2)
    assert keys(done) == {"import.cards"}


def test_a_windows_command_line_keeps_its_paths(tmp_path):
    script = (
        "accelerate launch train_network.py ^\n"
        '  --pretrained_model_name_or_path="C:\\my models\\sd.safetensors" ^\n'
        "  --train_data_dir C:\\new\\pics --network_alpha 1 --seed 1 --learning_rate 1e-4\n"
    )
    done = import_config([write(tmp_path / "run.bat", script)])
    assert done.values["base_model"] == "C:\\my models\\sd.safetensors"
    assert done.values["train_data_dir"] == "C:\\new\\pics"


def test_sample_prompts_from_the_form_and_from_a_file(tmp_path):
    lines = "a house --n bad --w 512 --h 768 --d 3 --s 20 --l 7.5\n# no\na tower"
    done = form(tmp_path, sample_prompts=lines, sample_every_n_steps=100)
    assert done.values["preview"] == {
        "negative_prompt": "bad", "width": 512, "height": 768, "seed": 3, "steps": 20, "guidance_scale": 7.5,
        "prompts": ["a house", "a tower"], "every_steps": 100,
    }  # fmt: skip
    write(tmp_path / "prompts.txt", "a red house\n")
    done = training(tmp_path, 'sample_prompts = "/gone/prompts.txt"\n')
    assert done.values["preview"] == {"prompts": ["a red house"]}


def test_a_key_of_an_account_is_never_repeated(tmp_path):
    done = form(tmp_path, wandb_api_key="SECRET", additional_parameters="--scale_weight_norms=1.0")
    assert "SECRET" not in done.text
    assert lost(done) == {"scale_weight_norms"}


def test_every_note_is_said_in_both_languages(tmp_path):
    odd = {"optimizer": "Lion", "max_resolution": "512,768", "ip_noise_gamma": 0.1, "seed": 0}
    done = form(tmp_path, **odd, flux1_checkbox=True)
    found = {}
    for language in ("en", "zh"):
        use_language(language)
        found[language] = [note.text for note in done.notes]
    use_language("en")
    assert len(found["en"]) == 5
    assert not set(found["en"]) & set(found["zh"])


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("gone.json", None, "LS4457"),
        ("a.json", '{"learning_rate": ', "LS4459"),
        ("a.toml", "network_dim = = 3\n", "LS4459"),
        ("a.toml", "title = 'a book'\n", "LS4458"),
        ("a.json", '{"a": 1}', "LS4458"),
        ("a.toml", TRAINING + "huber_c = 0.1\nclip_skip = 2\nnetwork_dropout = 7\n", "LS4460"),
        ("a.toml", TRAINING + "dataset_config = 'none.toml'\n", "LS4457"),
    ],
)
def test_what_cannot_be_imported_is_said(tmp_path, name, content, code):
    if content is not None:
        write(tmp_path / name, content)
    with pytest.raises(ProblemsError) as error:
        import_config([tmp_path / name])
    assert error.value.problems[0].code == code
    if name == "a.toml" and code == "LS4459":
        assert error.value.problems[0].where.line


def test_the_command_writes_the_file_and_tells_the_rest(tmp_path):
    source = write(tmp_path / "form.json", {**FORM, "optimizer": "Lion", "ip_noise_gamma": 0.1})
    words = [sys.executable, "-m", "lora_scripts.cli.main", "import-config", str(source)]
    done = subprocess.run(
        [*words, "--output", str(tmp_path / "ours.yaml")], capture_output=True, text=True, check=True
    )
    assert "Lion" in done.stdout
    assert load_config(tmp_path / "ours.yaml").optimizer == "adamw"
    assert "# " in (tmp_path / "ours.yaml").read_text(encoding="utf-8")
    again = subprocess.run(
        [*words, "-o", str(tmp_path / "ours.yaml")], capture_output=True, text=True, check=False
    )
    assert (again.returncode, "LS4308" in again.stderr) == (2, True)
    printed = subprocess.run(words, capture_output=True, text=True, check=True)
    assert printed.stdout.startswith("train_data_dir:")
    assert "ip_noise_gamma" in printed.stderr
