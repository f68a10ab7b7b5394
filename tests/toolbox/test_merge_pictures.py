"""Picture LoRAs in their base for good: names, precision and other tensors stay; the effect is exact."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
import torch
from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from lora_scripts.core.problems import ProblemsError
from lora_scripts.toolbox import merge_pictures as merging
from lora_scripts.toolbox.merge_pictures import merge_pictures
from lora_scripts.toolbox.picture_loras import all_for_pictures, into, read_picture_lora
from tests.families import tiny

Q = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
CONV = "down_blocks.0.resnets.0.conv1"
TEXT = "encoder.layers.1.self_attn.v_proj"
ORIGINAL = {
    Q: "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight",
    CONV: "model.diffusion_model.input_blocks.1.0.in_layers.2.weight",
    TEXT: "cond_stage_model.transformer.text_model.encoder.layers.1.self_attn.v_proj.weight",
}


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    return tiny.write_single(tmp_path_factory.mktemp("single") / "tiny.safetensors", ema=True)


def codes(error):
    return {problem.code for problem in error.value.problems}


def pair(out, inside, rank=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    kernel = inside[1:]
    down = torch.randn((rank, *inside), generator=generator)
    return down, torch.randn((out, rank, *(1 for _ in kernel)), generator=generator)


def wide(path, layout="kohya", alpha=3.0, **metadata):
    """A LoRA of three kinds of layers: linear, 3x3 convolution, text encoder."""
    halves = {Q: pair(32, (32,)), CONV: pair(32, (32, 3, 3), seed=1), TEXT: pair(64, (64,), seed=2)}
    tensors = {}
    for module, (down, up) in halves.items():
        text = module is TEXT
        if layout == "kohya":
            start = "lora_te_text_model_" if text else "lora_unet_"
            name = start + module.replace(".", "_")
            tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
            tensors[f"{name}.alpha"] = torch.tensor(alpha)
        elif layout == "ldm":
            start = "lora_te_text_model_" if text else "lora_unet_"
            inner = module if text else ORIGINAL[module].split("diffusion_model.")[1].removesuffix(".weight")
            name = start + inner.replace(".", "_")
            tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up * alpha / 2}
        else:
            name = f"text_encoder.text_model.{module}" if text else f"unet.{module}"
            tensors |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
    save_file(tensors, str(path), {"format": "pt", **metadata})
    return path, halves


def product(down, up):
    """``up @ down`` by another road: the two layers one after the other on unit inputs."""
    return torch.einsum("or,r...->o...", up.flatten(1), down)


@pytest.mark.parametrize("layout", ["kohya", "ldm", "diffusers"])
def test_a_file_keeps_its_names_and_gets_the_sum(tmp_path, single, layout):
    described = {}
    if layout == "diffusers":
        both = {}
        for part, modules in (("unet", [Q, CONV]), ("text_encoder", [TEXT])):
            config = LoraConfig(r=2, lora_alpha=3, target_modules=modules).to_dict()
            both |= {f"{part}.{key}": value for key, value in config.items()}
        both = json.loads(json.dumps(both, default=list))
        described = {"lora_adapter_metadata": json.dumps(both)}
    path, halves = wide(tmp_path / "x.safetensors", layout, **described)
    done = merge_pictures(str(single), [f"{path}:0.7"], tmp_path / "m.safetensors")
    base, merged = load_file(single), load_file(done.path)
    changed = {name for name in base if not torch.equal(base[name], merged[name])}
    assert list(base) == list(merged)
    assert changed == {ORIGINAL[module] for module in halves}
    for module, (down, up) in halves.items():
        wanted = base[ORIGINAL[module]] + 0.7 * 3.0 / 2 * product(down, up)
        torch.testing.assert_close(merged[ORIGINAL[module]], wanted)
    assert (done.layers, done.twins) == (3, sum(name.startswith("model_ema.") for name in base))
    assert done.proof.relative < 1e-3


def test_a_half_precision_file_stays_one_and_is_rounded_once(tmp_path):
    parts = {name: module.half() for name, module in tiny.parts().items()}
    base = tiny.write_single(tmp_path / "half.safetensors", parts)
    path, halves = wide(tmp_path / "x.safetensors")
    done = merge_pictures(str(base), [str(path)], tmp_path / "m.safetensors")
    before, after = load_file(base), load_file(done.path)
    assert {n: t.dtype for n, t in before.items()} == {n: t.dtype for n, t in after.items()}
    wanted = (before[ORIGINAL[CONV]].float() + 1.5 * product(*halves[CONV])).half()
    torch.testing.assert_close(after[ORIGINAL[CONV]], wanted, atol=1e-3, rtol=1e-3)
    assert after["cond_stage_model.transformer.text_model.embeddings.position_ids"].dtype == torch.int64


@pytest.mark.long
def test_several_add_up_and_zero_is_the_base(tmp_path, single):
    first, halves = wide(tmp_path / "a.safetensors")
    second, _ = wide(tmp_path / "b.safetensors", alpha=1.0)
    merge_pictures(str(single), [f"{first}:0.5", f"{second}:-2"], tmp_path / "both.safetensors")
    base, both = load_file(single), load_file(tmp_path / "both.safetensors")
    wanted = base[ORIGINAL[Q]] + (0.5 * 1.5 - 2 * 0.5) * product(*halves[Q])
    torch.testing.assert_close(both[ORIGINAL[Q]], wanted)
    merge_pictures(str(single), [f"{first}:0"], tmp_path / "none.safetensors")
    none = load_file(tmp_path / "none.safetensors")
    assert all(torch.equal(base[name], none[name]) for name in base)


@pytest.mark.long
def test_a_folder_gives_a_folder_that_diffusers_loads(tmp_path, folder):
    from diffusers import StableDiffusionPipeline

    copy = shutil.copytree(folder, tmp_path / "base")
    (copy / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"stale")
    path, halves = wide(tmp_path / "x.safetensors")
    done = merge_pictures(str(copy), [str(path)], tmp_path / "merged")
    assert done.left_out == 1
    assert not list((tmp_path / "merged").rglob("*.bin"))
    pipe = StableDiffusionPipeline.from_pretrained(str(done.path), local_files_only=True)
    base = StableDiffusionPipeline.from_pretrained(str(folder), local_files_only=True)
    moved = pipe.unet.get_submodule(CONV).weight - base.unet.get_submodule(CONV).weight
    torch.testing.assert_close(moved.detach(), 1.5 * product(*halves[CONV]), atol=1e-5, rtol=1e-4)
    before = (folder / "vae" / "diffusion_pytorch_model.safetensors").read_bytes()
    assert before == (done.path / "vae" / "diffusion_pytorch_model.safetensors").read_bytes()


@pytest.mark.long
def test_merged_file_and_merged_folder_draw_what_base_and_lora_draw(tmp_path, folder, single, lora):
    import numpy as np
    from PIL import Image

    from lora_scripts.toolbox.drawing import Drawing, draw

    merge_pictures(str(folder), [f"{lora}:0.8"], tmp_path / "m")
    merge_pictures(str(single), [f"{lora}:0.8"], tmp_path / "m.safetensors")
    common = {"prompts": ("a red house",), "steps": 2, "width": 16, "height": 16}

    def drawn(name, base, *loras):
        (made,) = draw(Drawing(base=str(base), loras=loras, output=tmp_path / f"{name}.png", **common))
        return np.asarray(Image.open(made)).astype(int)

    for base, merged in ((folder, tmp_path / "m"), (single, tmp_path / "m.safetensors")):
        worn = drawn("worn", base, f"{lora}:0.8")
        assert abs(drawn("merged", merged) - worn).max() <= 1
        assert abs(drawn("bare", base) - worn).max() > 8


def test_a_dora_keeps_the_trained_lengths(tmp_path, single):
    path, halves = wide(tmp_path / "x.safetensors")
    tensors = load_file(path)
    names = {Q: "lora_unet_" + Q.replace(".", "_"), CONV: "lora_unet_" + CONV.replace(".", "_")}
    base = load_file(single)
    for module, name in names.items():
        rows = base[ORIGINAL[module]].shape[0]
        shape = (rows, *(1 for _ in base[ORIGINAL[module]].shape[1:]))
        tensors[f"{name}.dora_scale"] = torch.linspace(0.5, 2, rows).view(shape)
    save_file(tensors, str(path))
    done = merge_pictures(str(single), [str(path)], tmp_path / "m.safetensors")
    merged = load_file(done.path)
    for module in names:
        weight = merged[ORIGINAL[module]]
        lengths = weight.flatten(1).norm(dim=1)
        torch.testing.assert_close(lengths, torch.linspace(0.5, 2, len(lengths)), atol=1e-4, rtol=1e-4)
        turned = (base[ORIGINAL[module]] + 1.5 * product(*halves[module])).flatten(1)
        alike = torch.nn.functional.cosine_similarity(turned, weight.flatten(1), dim=1)
        torch.testing.assert_close(alike, torch.ones_like(alike))
    with pytest.raises(ProblemsError) as error:
        merge_pictures(str(single), [f"{path}:0.5"], tmp_path / "half.safetensors")
    assert codes(error) == {"LS4309"}


def test_a_dora_by_its_inputs_keeps_the_lengths_of_columns(tmp_path):
    name = "lora_unet_a"
    down, up = pair(6, (5,))
    tensors = {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
    tensors[f"{name}.dora_scale"] = torch.linspace(1, 2, 5).view(1, 5)
    save_file(tensors, str(tmp_path / "x.safetensors"))
    lora = read_picture_lora(tmp_path / "x.safetensors")
    weight = torch.randn(6, 5)
    before = weight.clone()
    into(weight, lora.values(lora.layers[name]), 1.0, before)
    torch.testing.assert_close(weight.norm(dim=0), torch.linspace(1, 2, 5))


def test_a_split_convolution_is_its_three_factors(tmp_path):
    """LyCORIS keeps a 3x3 convolution as 1x1, 3x3 and 1x1: run one after the other."""
    name = "lora_unet_a"
    down, core, up = torch.randn(2, 5, 1, 1), torch.randn(2, 2, 3, 3), torch.randn(6, 2, 1, 1)
    tensors = {
        f"{name}.lora_down.weight": down,
        f"{name}.lora_mid.weight": core,
        f"{name}.lora_up.weight": up,
    }
    save_file(tensors, str(tmp_path / "x.safetensors"))
    lora = read_picture_lora(tmp_path / "x.safetensors")
    weight = torch.zeros(6, 5, 3, 3)
    into(weight, lora.values(lora.layers[name]), 1.0, weight.clone())
    picture = torch.randn(1, 5, 7, 7)
    wanted = picture
    for kernel in (down, core, up):
        wanted = torch.nn.functional.conv2d(wanted, kernel)
    torch.testing.assert_close(torch.nn.functional.conv2d(picture, weight), wanted, atol=1e-4, rtol=1e-4)


def test_what_does_not_fit_is_named(tmp_path, single):
    path, _ = wide(tmp_path / "x.safetensors")
    tensors = load_file(path)
    foreign = {
        "lora_unet_nowhere.lora_down.weight": torch.ones(2, 4),
        "lora_unet_nowhere.lora_up.weight": torch.ones(4, 2),
    }
    save_file({**tensors, **foreign}, str(tmp_path / "part.safetensors"))
    save_file(foreign, str(tmp_path / "none.safetensors"))
    tensors["lora_unet_" + Q.replace(".", "_") + ".lora_up.weight"] = torch.ones(33, 2)
    save_file(tensors, str(tmp_path / "size.safetensors"))
    save_file({"lora_unet_a.hada_w1_a": torch.ones(2, 2)}, str(tmp_path / "loha.safetensors"))
    for name, code, word in (
        ("part", "LS4451", "lora_unet_nowhere"), ("none", "LS4450", "lora_unet_nowhere"),
        ("size", "LS4451", "to_q"), ("loha", "LS4452", "hada_w1_a"),
    ):  # fmt: skip
        with pytest.raises(ProblemsError) as error:
            merge_pictures(str(single), [str(tmp_path / f"{name}.safetensors")], tmp_path / "m.safetensors")
        assert codes(error) == {code}
        assert word in str(error.value)
    assert not (tmp_path / "m.safetensors").exists()


def test_a_wrong_sum_is_caught_and_nothing_is_left(tmp_path, single, monkeypatch):
    path, _ = wide(tmp_path / "x.safetensors")
    real = merging.into
    monkeypatch.setattr(merging, "into", lambda w, values, s, before: real(w, values, 1.5 * s, before))
    with pytest.raises(ProblemsError) as error:
        merge_pictures(str(single), [str(path)], tmp_path / "out" / "m.safetensors")
    assert codes(error) == {"LS4454"}
    assert list((tmp_path / "out").iterdir()) == []


def test_forms_and_existing_files_are_respected(tmp_path, single, folder, lora):
    for base, output, code in (
        (single, tmp_path / "folder", "LS4453"), (folder, tmp_path / "f.safetensors", "LS4453"),
        (single, single, "LS4308"),
    ):  # fmt: skip
        with pytest.raises(ProblemsError) as error:
            merge_pictures(str(base), [str(lora)], output)
        assert codes(error) == {code}


def test_the_header_says_what_it_is_and_no_longer_what_it_was(tmp_path, single):
    base = tmp_path / "base.safetensors"
    told = {"modelspec.title": "mine", "modelspec.hash_sha256": "0xold", "sshs_model_hash": "old"}
    save_file(load_file(single), str(base), told)
    path, _ = wide(tmp_path / "x.safetensors")
    merge_pictures(str(base), [f"{path}:0.5"], tmp_path / "m.safetensors")
    with safe_open(str(tmp_path / "m.safetensors"), "pt") as handle:
        found = handle.metadata()
    assert found["modelspec.title"] == "mine"
    assert not {"modelspec.hash_sha256", "sshs_model_hash"} & set(found)
    assert json.loads(found["lora_scripts_merged"]) == [{"name": "x", "strength": 0.5}]


def test_the_kind_of_the_first_lora_decides_and_kinds_do_not_mix(tmp_path):
    picture, _ = wide(tmp_path / "x.safetensors")
    (tmp_path / "voice").mkdir()
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    save_file(
        {f"{name}.lora_A.weight": torch.ones(2, 4), f"{name}.lora_B.weight": torch.ones(4, 2)},
        str(tmp_path / "voice" / "adapter_model.safetensors"),
    )
    text = str(tmp_path / "voice" / "adapter_model.safetensors")
    assert all_for_pictures([f"{picture}:0.5"])
    assert not all_for_pictures([text])
    assert not all_for_pictures([str(tmp_path / "voice")])
    with pytest.raises(ProblemsError) as error:
        all_for_pictures([str(picture), text])
    assert codes(error) == {"LS4456"}


@pytest.mark.long
def test_one_tensor_at_a_time_is_in_memory(tmp_path):
    """A file of 200 MB with tensors of 20: rewriting it takes far less than the file."""
    big = {f"t{number}": torch.zeros(5_000_000) for number in range(10)}
    save_file(big, str(tmp_path / "big.safetensors"))
    script = (
        "import resource, sys, torch\nfrom pathlib import Path\n"
        "from lora_scripts.export.rewritten import rewrite\n"
        "torch.ones(3).half()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "changes = {'t3': lambda t: t.add_(1), 't7': lambda t: t}\n"
        "done = rewrite(Path(sys.argv[1]), Path(sys.argv[2]), changes)\n"
        "print(done, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    words = [
        sys.executable,
        "-c",
        script,
        str(tmp_path / "big.safetensors"),
        str(tmp_path / "new.safetensors"),
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    count, grown = map(int, done.stdout.split())
    assert count == 2
    assert grown < 70_000, "kilobytes"
    with safe_open(str(tmp_path / "new.safetensors"), "pt") as handle:
        assert handle.get_tensor("t3")[5] == 1
        assert handle.get_tensor("t4")[5] == 0


@pytest.mark.long
def test_a_fused_text_encoder_gets_the_rows_of_the_layer(tmp_path):
    """Stable Diffusion 2's single file keeps q, k and v as one tensor; the module has three."""
    base = tiny.write_single(tmp_path / "sd2.safetensors", tiny.parts(second=True), markers=("v_pred",))
    before = load_file(base)
    fused = next(n for n in before if n.endswith("resblocks.1.attn.in_proj_weight"))
    width = before[fused].shape[1]
    down, up = pair(width, (width,))
    name = "lora_te_text_model_encoder_layers_1_self_attn_"
    tensors = {f"{name}{part}.{half}.weight": value.clone() for part in ("v_proj", "out_proj")
               for half, value in (("lora_down", down), ("lora_up", up))}  # fmt: skip
    save_file(tensors, str(tmp_path / "x.safetensors"))
    done = merge_pictures(str(base), [str(tmp_path / "x.safetensors")], tmp_path / "m.safetensors")
    after = load_file(done.path)
    moved = after[fused] - before[fused]
    assert not moved[: 2 * width].any()
    torch.testing.assert_close(moved[2 * width :], product(down, up), atol=1e-5, rtol=1e-4)
    out = fused.replace("in_proj_weight", "out_proj.weight")
    assert {n for n in before if not torch.equal(before[n], after[n])} == {fused, out}
    assert done.proof.relative < 1e-3
