"""M4: Stable Diffusion 3, FLUX and Z-Image, from their YAML to pictures, on small random bases."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lora_scripts.families._source import family_named
from tests.contract.conftest import ROOT, Desk, draw_pictures, write_csv
from tests.families.loaded import written

QUICK: dict[str, Any] = {
    "max_steps": 2, "save_steps": 2, "resolution": 16, "logging": {"tensorboard": False},
    "validation": {"split": 0},
}  # fmt: skip
SHORT = ("max_steps=2", "save_steps=2", "resolution=16", "logging.tensorboard=false")
PREVIEW = ("preview.prompts=[a red house]", "preview.steps=2")


@pytest.fixture(scope="module", params=["sd3", "flux", "z_image"])
def studio(request, tmp_path_factory) -> tuple[str, Desk]:
    root = tmp_path_factory.mktemp(request.param)
    write_csv(root / "pics" / "metadata.csv", draw_pictures(root / "pics", 8))
    return request.param, Desk(root, written(request.param))


@pytest.fixture(scope="module")
def trained(studio) -> tuple[str, Desk, Path]:
    """The YAML of the repository, with the paths of this desk."""
    name, desk = studio
    places = (
        "train_data_dir=./pics",
        f"base_model={desk.base}",
        "output_dir=./output/mine",
        "cache_dir=./cache",
    )
    settings = [word for text in (*places, *SHORT, *PREVIEW) for word in ("--set", text)]
    done = desk.cli("train", "--config", ROOT / "configs" / f"{name}.yaml", *settings)
    assert done.code == 0, done.text
    return name, desk, desk.root / "output/mine/mine.safetensors"


def header(path: Path) -> tuple[set[str], dict[str, str]]:
    with safe_open(str(path), "pt") as file:
        return set(file.keys()), file.metadata()


@pytest.mark.long
def test_m04_the_yaml_trains_previews_and_leaves_the_layout_that_most_programs_read(trained):
    name, desk, path = trained
    names, metadata = header(path)
    if name == "flux":
        assert "lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight" in names
        assert metadata["ss_base_model_version"] == "flux1"
        assert len({n for n in names if n.endswith(".alpha")}) == len(names) // 3
    else:
        first = {"sd3": "transformer_blocks.0.attn", "z_image": "layers.0.attention"}[name]
        assert f"transformer.{first}.to_q.lora_A.weight" in names
        assert all(n.endswith((".lora_A.weight", ".lora_B.weight")) for n in names)
    assert "modelspec.prediction_type" not in metadata
    assert (desk.root / "output/mine/previews/sheet.png").exists()
    result = desk.result("output/mine")
    assert result["readback"]["layers"]["transformer"] >= 14
    assert result["readback"]["weights"] < 1e-2


@pytest.mark.long
def test_m04_inspect_says_what_it_is_and_which_programs_run_it(trained):
    name, desk, path = trained
    said = desk.cli("inspect", path)
    assert said.code == 0, said.text
    assert {"sd3": "Stable Diffusion 3", "flux": "FLUX.1", "z_image": "Z-Image"}[name] in said.text
    found = json.loads(desk.cli("inspect", path, "--json").out)["clients"]
    answers = {client: verdict["answer"] for client, verdict in found.items()}
    assert answers["Diffusers"] == answers["ComfyUI"] == "yes"
    assert answers["A1111 WebUI"] == ("unknown" if name == "sd3" else "no")
    assert answers["sd-scripts"] == ("yes" if name == "flux" else "no")


@pytest.mark.long
def test_m04_pictures_are_drawn_with_it_and_without_it(trained):
    _, desk, path = trained
    options = ("--steps", "2", "--width", "16", "--height", "16", "--base", str(desk.base))
    for lora, output in (((), "bare.png"), (("--lora", f"{path}:3"), "worn.png")):
        done = desk.cli("generate", "--prompt", "a red house", *lora, *options, "--output", output)
        assert done.code == 0, done.text
    assert (desk.root / "bare.png").read_bytes() != (desk.root / "worn.png").read_bytes()


@pytest.mark.slow
def test_m04_it_is_merged_into_folder_and_file(trained):
    name, desk, path = trained
    done = desk.cli("merge", "--base", desk.base, "--lora", path, "--output", "merged")
    assert done.code == 0, done.text
    base = importlib.import_module(f"tests.bases.{name}").single(desk.root / f"{name}.safetensors")
    (desk.root / "elsewhere").mkdir()  # the reader's tokenizer lies beside the base, not beside what is made
    done = desk.cli("merge", "--base", base, "--lora", path, "--output", "elsewhere/merged.safetensors")
    assert done.code == 0, done.text
    before, after = (header(p)[0] for p in (base, desk.root / "elsewhere/merged.safetensors"))
    assert before == after


@pytest.mark.long
def test_m04_a_second_layout_is_written_on_request(trained):
    name, desk, path = trained
    other = "diffusers" if name == "flux" else "kohya"
    done = desk.cli(
        "export", "--base", desk.base, "--lora", path, "--to", other, "--output", "other.safetensors"
    )
    assert done.code == 0, done.text
    names, _ = header(desk.root / "other.safetensors")
    wanted = {
        "sd3": "lora_unet_joint_blocks_0_x_block_attn_qkv.lora_up.weight",
        "flux": "transformer.single_transformer_blocks.1.proj_mlp.lora_A.weight",
        "z_image": "lora_unet_layers_1_attention_qkv.lora_up.weight",
    }
    assert wanted[name] in names
    again = desk.cli("merge", "--base", desk.base, "--lora", "other.safetensors", "--output", "again")
    assert again.code == 0, again.text


@pytest.mark.long
def test_m04_a_lora_under_another_trainers_names_is_merged_alike(trained):
    """``diffusion_model.`` and then Diffusers' own names, as Z-Image's LoRAs mostly have them."""
    name, desk, path = trained
    if name != "z_image":
        pytest.skip("such names are usual for Z-Image alone")
    tensors = {n.replace("transformer.", "diffusion_model.", 1): t for n, t in load_file(str(path)).items()}
    save_file(tensors, str(desk.root / "theirs.safetensors"))
    assert "Z-Image" in desk.cli("inspect", "theirs.safetensors").out
    merged = []
    for lora, output in ((path, "of_ours"), ("theirs.safetensors", "of_theirs")):
        done = desk.cli("merge", "--base", desk.base, "--lora", lora, "--output", output)
        assert done.code == 0, done.text
        merged.append(load_file(desk.root / output / "transformer/diffusion_pytorch_model.safetensors"))
    for key, tensor in merged[0].items():
        torch.testing.assert_close(tensor, merged[1][key], rtol=1e-6, atol=1e-7)


@pytest.mark.slow
def test_m04_training_goes_on_from_it(trained):
    _, desk, path = trained
    config = desk.config(output_dir="output/on", init_from=str(path), lora_rank=16, **QUICK)
    done = desk.train(config)
    assert done.code == 0, done.text


@pytest.mark.slow
def test_m04_a_transformer_alone_trains_and_its_lora_is_merged_without_naming_the_rest_again(studio):
    """As community files hold it; the LoRA's own configuration says where the other parts are."""
    name, desk = studio
    made = importlib.import_module(f"tests.bases.{name}")
    state = made.original_transformer(made.parts()["transformer"].state_dict())
    save_file({n: t.clone().contiguous() for n, t in state.items()}, str(desk.root / "alone.safetensors"))
    others = [part for part in family_named(name).sheet.components if part != "transformer"]
    rest = {part: str(desk.base / part) for part in others}
    config = desk.config(
        base_model="./alone.safetensors", components=rest, output_dir="output/alone", **QUICK
    )
    done = desk.train(config)
    assert done.code == 0, done.text
    lora = "output/alone/alone.safetensors"
    merged = desk.cli("merge", "--lora", lora, "--output", "alone_merged.safetensors")
    assert merged.code == 0, merged.text
    assert header(desk.root / "alone_merged.safetensors")[0] == set(state)


@pytest.mark.parametrize(
    ("code", "options"),
    [
        ("LS4017", {"prediction_type": "epsilon"}),
        ("LS4541", {"min_snr_gamma": 5}),
        ("LS4541", {"noise_offset": 0.05}),
        ("LS4543", {"timestep_sampling": "uniform", "logit_std": 0.5}),
        ("LS4545", {"max_caption_tokens": 225}),
        ("LS1021", {"train_text_encoder": True}),
        ("LS1021", {"use_dora": True}),
        ("LS1021", {"clip_skip": 2}),
    ],
)
def test_m04_what_means_nothing_to_such_a_base_is_said_before_training(studio, code, options):
    _, desk = studio
    checked = desk.cli("check", "--config", desk.config(**options, **QUICK))
    assert checked.code == 2, checked.text
    assert code in checked.text


def test_m04_a_guidance_scale_is_for_bases_that_are_told_one(studio):
    name, desk = studio
    checked = desk.cli("check", "--config", desk.config(guidance_scale=1.5, **QUICK))
    assert checked.code == (0 if name == "flux" else 2), checked.text
    assert ("LS4544" in checked.text) is (name != "flux")


def test_m04_keys_of_flow_matching_are_refused_by_other_bases(desk):
    checked = desk.cli("check", "--config", desk.config(discrete_flow_shift=3, **QUICK))
    assert checked.code == 2
    assert "LS4542" in checked.text
    passed = desk.cli("check", "--config", desk.config(discrete_flow_shift="auto", **QUICK))
    assert passed.code == 0, passed.text
