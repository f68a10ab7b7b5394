"""Odd files of the wild: what they are, and which program would apply nothing. What is said of Diffusers is
asked of Diffusers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lora_scripts.cli.inspect import report_lines
from lora_scripts.core.catalogue import use_language
from lora_scripts.core.problems import ProblemsError
from lora_scripts.toolbox.inspect import inspect_file
from lora_scripts.toolbox.loras import LoraChoice, put_on

SHARED = Path(__file__).parents[3] / "shared" / "data" / "lora"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data/lora is not here")
PLACE = "down_blocks.0.attentions.0.transformer_blocks.0.attn2"


def answers(path):
    return {client: verdict.answer for client, verdict in inspect_file(path).clients.items()}


def imitation(path, layout, width=768):
    """The names of an odd file, with layers ``to_k`` and ``to_out`` of one attention."""
    halves = {"to_k": ((2, width), (32, 2)), "to_out": ((2, 32), (32, 2))}
    tensors = {}
    for number, (leaf, (down, up)) in enumerate(halves.items()):
        end = ".0" if leaf == "to_out" else ""
        first, second = {
            "processor": (
                f"{PLACE}.processor.{leaf}_lora.down.weight",
                f"{PLACE}.processor.{leaf}_lora.up.weight",
            ),
            "old": (f"unet.{PLACE}.{leaf}{end}.lora.down.weight", f"unet.{PLACE}.{leaf}{end}.lora.up.weight"),
            "pti": (f"unet:{number}:down", f"unet:{number}:up"),
        }[layout]
        tensors |= {first: torch.ones(down), second: torch.ones(up)}
    save_file(tensors, str(path))
    return path


@pytest.fixture(scope="module")
def pipe(folder):
    from lora_scripts.families import _source

    source = _source.resolve(str(folder))
    family = _source.find("auto", source)
    return family.pipeline(family.load(source))


@pytest.mark.parametrize(
    ("layout", "diffusers", "comfy", "forge"),
    [("processor", "no", "yes", "yes"), ("old", "yes", "no", "no"), ("pti", "no", "no", "no")],
)
def test_diffusers_does_what_is_said_of_it(tmp_path, pipe, layout, diffusers, comfy, forge):
    path = imitation(tmp_path / "x.safetensors", layout, width=64)
    found = answers(path)
    assert (found["Diffusers"], found["ComfyUI"], found["Forge"]) == (diffusers, comfy, forge)
    assert (found["A1111 WebUI"], found["sd-scripts"]) == ("no", "no")
    if diffusers == "yes":
        assert put_on(pipe, [LoraChoice(path)]) == [2]
        pipe.unload_lora_weights()
    else:
        with pytest.raises(ProblemsError) as error:
            put_on(pipe, [LoraChoice(path)])
        assert error.value.problems[0].code == "LS4041"


def test_layers_without_names_still_tell_their_base(tmp_path):
    report = inspect_file(imitation(tmp_path / "x.safetensors", "pti"))
    assert (report.base, report.layout, report.modules) == ("sd15", "pti", {"unet": 2})
    assert inspect_file(imitation(tmp_path / "p.safetensors", "processor")).modules == {"unet": 2}


def test_attention_alone_is_nothing_to_comfyui_and_more_is_a_part(tmp_path):
    path = imitation(tmp_path / "x.safetensors", "old")
    assert inspect_file(path).clients["ComfyUI"].reason == "inspect.client.attention_only"
    from safetensors.torch import load_file

    more = {"unet.down_blocks.0.attentions.0.proj_in.lora.down.weight": torch.ones(2, 32, 1, 1)}
    save_file({**load_file(path), **more}, str(tmp_path / "more.safetensors"))
    assert answers(tmp_path / "more.safetensors")["ComfyUI"] == "part"


def embedding(path, **tensors):
    save_file({name: torch.ones(shape) for name, shape in tensors.items()}, str(path))
    return path


def test_embeddings_say_their_base_their_words_and_who_takes_them(tmp_path):
    word = inspect_file(embedding(tmp_path / "w.safetensors", **{"<style>": (3, 768)}))
    assert (word.layout, word.base, word.modules) == ("word", "sd15", {"<style>": 3})
    assert answers(tmp_path / "w.safetensors")["A1111 WebUI"] == "yes"
    clip = inspect_file(embedding(tmp_path / "c.safetensors", clip_l=(2, 768), clip_g=(2, 1280)))
    assert (clip.layout, clip.base) == ("clip", "sdxl")
    assert (answers(Path(clip.path))["ComfyUI"], answers(Path(clip.path))["Diffusers"]) == ("yes", "no")
    parts = embedding(tmp_path / "p.pti", text_encoders_0=(2, 768), text_encoders_1=(2, 1280))
    assert inspect_file(parts).base == "sdxl"
    assert set(answers(parts).values()) == {"no"}
    renamed = embedding(tmp_path / "r.pti", word=(1, 1024))
    assert inspect_file(renamed).base == "sd2"
    assert answers(renamed)["A1111 WebUI"] == "no"


def test_diffusers_takes_one_word_and_refuses_several_tensors(tmp_path, pipe):
    word = embedding(tmp_path / "w.safetensors", **{"<style>": (1, 64)})
    pipe.load_textual_inversion(str(word))
    assert "<style>" in pipe.tokenizer.get_vocab()
    several = embedding(tmp_path / "s.safetensors", clip_l=(1, 64), clip_g=(1, 64))
    with pytest.raises(ValueError, match="incorrect"):
        pipe.load_textual_inversion(str(several))


@needs_shared
@pytest.mark.parametrize(
    ("name", "base", "nothing"),
    [
        ("sd15_diffusers_layout.safetensors", "sd15", {"ComfyUI", "A1111 WebUI", "Forge", "sd-scripts"}),
        ("sd15_old_processor_layout.safetensors", "sd15", {"Diffusers", "A1111 WebUI", "sd-scripts"}),
        (
            "sd15_pti_layout.safetensors", "sd15",
            {"Diffusers", "ComfyUI", "A1111 WebUI", "Forge", "sd-scripts"},
        ),
        ("sd15_textual_inversion.safetensors", "sd15", set()),
        (
            "sdxl_token_embeddings.pti", "sdxl",
            {"Diffusers", "ComfyUI", "A1111 WebUI", "Forge", "sd-scripts"},
        ),
        ("peft_gpt2", "causal_lm", {"vLLM", "llama.cpp"}),
    ],
)  # fmt: skip
def test_each_real_file_is_named_with_who_applies_nothing(name, base, nothing):
    report = inspect_file(SHARED / name)
    assert report.base == base
    assert {client for client, verdict in report.clients.items() if verdict.answer == "no"} == nothing
    told = {}
    for language in ("en", "zh"):
        use_language(language)
        told[language] = report_lines(report)
    use_language("en")
    assert len(told["en"]) == len(told["zh"]) > 5
