"""M2: the same YAML gives the same experiment: repeated from config.yaml and from the LoRA's own header."""

import pytest


def weights(desk, output):
    return (desk.root / output / "pytorch_lora_weights.safetensors").read_bytes()


def test_m02_the_resolved_config_repeats_the_run_bit_for_bit(trained):
    again = trained.cli("train", "--config", "output/my_style/config.yaml", "--output-dir", "output/again")
    assert again.code == 0, again.text
    assert weights(trained, "output/again") == weights(trained, "output/my_style")
    assert (trained.root / "output/again/my_style.safetensors").exists()


@pytest.mark.long
def test_m02_a_lora_rebuilds_its_own_yaml(trained):
    shown = trained.cli("inspect", "output/my_style/my_style.safetensors", "--config")
    assert shown.code == 0, shown.text
    (trained.root / "from_header.yaml").write_text(shown.out, encoding="utf-8")
    again = trained.cli(
        "train", "--config", "from_header.yaml", "--output-dir", "output/header", "--set", "cache_dir=./other"
    )
    assert again.code == 0, again.text
    assert weights(trained, "output/header") == weights(trained, "output/my_style")


@pytest.mark.long
def test_m02_another_seed_is_another_experiment(trained):
    other = trained.cli(
        "train", "--config", "output/my_style/config.yaml", "--output-dir", "output/seed", "--set", "seed=43"
    )
    assert other.code == 0, other.text
    assert weights(trained, "output/seed") != weights(trained, "output/my_style")
