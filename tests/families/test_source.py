"""A base is found, recognised or refused from its name and header alone."""

from __future__ import annotations

import json
import math
import pickle
import zipfile
from pathlib import Path

import pytest

from lora_scripts.core.catalogue import render
from lora_scripts.core.problems import ProblemsError
from lora_scripts.families import _source
from lora_scripts.families._hub import complete, wanted

SDXL = {
    "conditioner.embedders.0.transformer.text_model.embeddings.position_embedding.weight": (77, 768),
    "model.diffusion_model.input_blocks.4.1.proj_in.weight": (640, 640),
    "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight": (640, 2048),
    "model.diffusion_model.label_emb.0.0.weight": (1280, 2816),
}
SD2 = {
    "cond_stage_model.model.transformer.resblocks.0.ln_1.weight": (1024,),
    "model.diffusion_model.input_blocks.1.1.proj_in.weight": (320, 320),
    "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 1024),
}
SD3 = {"model.diffusion_model.joint_blocks.0.context_block.attn.qkv.weight": (4608, 1536)}
FLUX = {"double_blocks.0.img_attn.qkv.weight": (9216, 3072)}
LORA = {"lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": (4, 320, 1, 1)}
VAE = {"first_stage_model.encoder.conv_in.weight": (128, 3, 3, 3)}
LLM = {"model.layers.0.self_attn.q_proj.weight": (4096, 4096)}


def header_only(path: Path, shapes: dict[str, tuple[int, ...]]) -> Path:
    """A safetensors file whose body is a hole: names and shapes of any size for no disk space."""
    table, offset = {}, 0
    for name, shape in shapes.items():
        size = 2 * math.prod(shape)
        table[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    raw = json.dumps(table).encode()
    with open(path, "wb") as handle:
        handle.write(len(raw).to_bytes(8, "little") + raw)
        handle.truncate(8 + len(raw) + offset)
    return path


def code_of(call) -> str:
    with pytest.raises(ProblemsError) as caught:
        call()
    for language in ("en", "zh"):
        assert render(caught.value.problems[0], language)
    return caught.value.problems[0].code


@pytest.mark.parametrize(
    ("shapes", "name"),
    [
        (SDXL, "Stable Diffusion XL"),
        (SD2, "Stable Diffusion 2.x"),
        (SD3, "Stable Diffusion 3"),
        (FLUX, "FLUX.1"),
        (LORA, "LoRA"),
        (VAE, "VAE"),
        (LLM, "language model"),
    ],
)
def test_another_kind_under_sd15_is_named(tmp_path, shapes, name):
    source = _source.resolve(str(header_only(tmp_path / "other.safetensors", shapes)))
    with pytest.raises(ProblemsError) as caught:
        _source.find("sd15", source)
    problem = caught.value.problems[0]
    assert problem.code == "LS4008"
    assert problem.params["kind"] == name
    assert name in render(problem)


def test_weights_of_no_known_kind_are_said_to_be_so(tmp_path):
    source = _source.resolve(
        str(header_only(tmp_path / "odd.safetensors", {f"x{n}.w": (3, 3, 3) for n in range(9)}))
    )
    assert code_of(lambda: _source.find("auto", source)) == "LS4016"
    assert code_of(lambda: _source.find("sd15", source)) == "LS4016"


def test_a_lora_is_no_base_model(tmp_path):
    source = _source.resolve(str(header_only(tmp_path / "lora.safetensors", LORA)))
    assert code_of(lambda: _source.find("auto", source)) == "LS4009"


def test_the_family_is_sniffed_from_both_layouts(folder, single):
    for path in (folder, single):
        source = _source.resolve(str(path))
        assert _source.find("auto", source).sheet.name == "sd15"
        assert _source.find("sd15", source).sheet.name == "sd15"


def test_an_unknown_family_name_suggests_a_known_one(single):
    source = _source.resolve(str(single))
    with pytest.raises(ProblemsError) as caught:
        _source.find("sd51", source)
    assert caught.value.problems[0].code == "LS4007"
    assert caught.value.problems[0].params["near"] == "sd15"


class Bomb:
    """A pickle that would tell on whoever opened it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_pickle_named_safetensors_is_refused_unopened(tmp_path, protocol):
    mark = tmp_path / "opened"
    path = tmp_path / "model.safetensors"
    path.write_bytes(pickle.dumps(Bomb(mark), protocol=protocol))
    assert code_of(lambda: _source.resolve(str(path))) == "LS4003"
    assert not mark.exists()


def test_a_torch_archive_named_safetensors_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02.")
    assert code_of(lambda: _source.resolve(str(path))) == "LS4003"


def test_a_table_whose_length_looks_like_a_pickle_is_read(tmp_path):
    from lora_scripts.families._header import read_header

    path = tmp_path / "model.safetensors"
    table = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    path.write_bytes((0x0280).to_bytes(8, "little") + table.ljust(0x0280) + b"\0" * 4)
    assert path.read_bytes().startswith(b"\x80\x02")
    assert read_header(path).shapes == {"a": (1,)}


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".pth", ".bin", ".CKPT"])
def test_pickle_formats_are_refused_by_name(tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"whatever")
    assert code_of(lambda: _source.resolve(str(path))) == "LS4002"


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00", b"version https://git-lfs.github.com/spec/v1\n",
     b"<!DOCTYPE html><html>", (30).to_bytes(8, "little") + b'{"a": {"dtype": 7}}           ',
     (2**40).to_bytes(8, "little") + b"{}"],
)  # fmt: skip
def test_what_is_no_safetensors_file_is_named(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    assert code_of(lambda: _source.resolve(str(path))) == "LS4004"


def test_a_gguf_file_is_named_as_what_it_is(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"GGUF\x03\x00\x00\x00")
    assert code_of(lambda: _source.resolve(str(path))) == "LS4029"


def test_a_download_cut_short_is_noticed(tmp_path, single):
    path = tmp_path / "model.safetensors"
    path.write_bytes(single.read_bytes()[:-5])
    assert code_of(lambda: _source.resolve(str(path))) == "LS4005"
    path.write_bytes(single.read_bytes()[:200])
    assert code_of(lambda: _source.resolve(str(path))) == "LS4005"


def test_a_missing_file_suggests_its_neighbour(tmp_path, single):
    (tmp_path / "v1-5-pruned.safetensors").write_bytes(b"")
    with pytest.raises(ProblemsError) as caught:
        _source.resolve(str(tmp_path / "v1-5-pruend.safetensors"))
    assert caught.value.problems[0].code == "LS4001"
    assert caught.value.problems[0].params["hint"].endswith("v1-5-pruned.safetensors")


def test_a_folder_without_index_is_no_base(tmp_path):
    assert code_of(lambda: _source.resolve(str(tmp_path))) == "LS4014"


@pytest.mark.parametrize("name", ["some-owner/some-model", "Qwen/Qwen2.5-0.5B-Instruct"])
def test_a_hub_id_that_cannot_be_reached_says_how_to_go_on(monkeypatch, name):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert code_of(lambda: _source.resolve(name)) == "LS4006"


def test_of_a_hub_repository_only_what_is_needed_is_taken():
    files = [
        "model_index.json", "README.md", "v1-5-pruned.safetensors", "v1-5-pruned.ckpt",
        "safety_checker/model.safetensors", "unet/config.json", "unet/diffusion_pytorch_model.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors", "unet/diffusion_pytorch_model.bin",
        "vae/config.json", "vae/diffusion_pytorch_model.fp16.safetensors",
        "tokenizer/merges.txt", "tokenizer/vocab.json",
    ]  # fmt: skip
    assert wanted(files) == [
        "model_index.json",
        "tokenizer/merges.txt",
        "tokenizer/vocab.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.fp16.safetensors",
    ]


def test_an_interrupted_download_is_not_taken_for_whole(tmp_path, folder):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    assert complete(copy)
    (copy / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    assert not complete(copy)


def test_the_fingerprint_follows_the_content(tmp_path, single):
    copy = tmp_path / single.name
    data = bytearray(single.read_bytes())
    copy.write_bytes(data)
    first = _source.resolve(str(single)).fingerprint()
    assert _source.resolve(str(copy)).fingerprint() == first
    data[-100] ^= 1
    copy.write_bytes(data)
    assert _source.resolve(str(copy)).fingerprint() != first


def test_sniffing_imports_no_torch(single):
    import subprocess
    import sys

    script = (
        "import sys; from lora_scripts.families import _source\n"
        f"s = _source.resolve({str(single)!r}); print(_source.find('auto', s).sheet.name)\n"
        "assert not {'torch', 'diffusers', 'transformers', 'peft'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "sd15"


def test_a_language_model_is_downloaded_without_pickles_and_other_programs_copies():
    files = [
        "config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
        "model.safetensors.index.json", "pytorch_model.bin", "consolidated.safetensors", "tokenizer.json",
        "tokenizer.model", "chat_template.jinja", "README.md", "original/model.safetensors", "modeling_x.py",
    ]  # fmt: skip
    assert wanted(files) == [
        "chat_template.jinja", "config.json", "model.safetensors.index.json", "tokenizer.json",
        "tokenizer.model", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
    ]  # fmt: skip


def test_an_interrupted_download_of_a_language_model_is_not_whole(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    (tmp_path / shards["a"]).write_bytes(b"x")
    assert not complete(tmp_path)
    (tmp_path / shards["b"]).write_bytes(b"x")
    assert complete(tmp_path)


def test_a_modelscope_model_comes_through_its_own_library(tmp_path, monkeypatch):
    import sys
    import types

    with_hub = types.ModuleType("modelscope")
    asked = []
    with_hub.snapshot_download = lambda repo, allow_patterns: asked.append(repo) or str(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    header_only(tmp_path / "model.safetensors", LLM)
    monkeypatch.setitem(sys.modules, "modelscope", with_hub)
    source = _source.resolve("modelscope:Qwen/Qwen3-4B")
    assert asked == ["Qwen/Qwen3-4B"]
    assert (source.kind, source.name) == ("transformers", "modelscope:Qwen/Qwen3-4B")
    monkeypatch.setitem(sys.modules, "modelscope", None)
    assert code_of(lambda: _source.resolve("modelscope:Qwen/Qwen3-4B")) == "LS4018"
