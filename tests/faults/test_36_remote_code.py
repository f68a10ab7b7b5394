"""A model that comes with programs of its own: built-in classes are used, or it is refused with what to do;
what it brings is never run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from lora_scripts.core.catalogue import fix
from lora_scripts.core.problems import ProblemsError
from lora_scripts.families._source import find, resolve
from tests.contract.conftest import tiny_base, tiny_chat_base  # noqa: F401
from tests.families.chat_cases import user

AUTO = {
    "config.json": {
        "AutoConfig": "modeling_x.Config", "AutoModel": "modeling_x.Model",
        "AutoModelForCausalLM": "modeling_x.Model", "AutoModelForImageTextToText": "modeling_x.Model",
    },
    "tokenizer_config.json": {"AutoTokenizer": ["modeling_x.Tokenizer", "modeling_x.Tokenizer"]},
    "preprocessor_config.json": {"AutoImageProcessor": "modeling_x.P", "AutoProcessor": "modeling_x.P"},
    "processor_config.json": {"AutoProcessor": "modeling_x.P"},
    "generation_config.json": {"AutoConfig": "modeling_x.Config"},
}  # fmt: skip


def with_programs(folder: Path, mark: Path, **changes: object) -> Path:
    """The folder with a canary under every name that libraries know for programs."""
    for name in (
        "modeling_x.py",
        "custom_generate/generate.py",
        "pipeline.py",
        "tokenization_x.py",
        "__init__.py",
    ):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"import os\nos.makedirs({str(mark)!r}, exist_ok=True)\n", encoding="utf-8")
    for name, auto in AUTO.items():
        path = folder / name
        told = json.loads(path.read_text("utf-8")) if path.is_file() else None
        if told is not None or name != "config.json":
            path.write_text(json.dumps({**(told or {}), "auto_map": auto, **changes}), encoding="utf-8")
    return folder


@pytest.fixture
def mark(tmp_path) -> Path:
    return tmp_path / "ran"


@pytest.fixture
def chat_base(tmp_path, tiny_chat_base) -> Path:  # noqa: F811
    return shutil.copytree(tiny_chat_base, tmp_path / "chat")


def test_a_language_model_is_loaded_by_the_library_s_own_classes(chat_base, mark):
    from lora_scripts.families._chat import Chat

    source = resolve(str(with_programs(chat_base, mark)))
    family = find("auto", source)
    model = family.load(source)
    assert type(model.predictor).__module__.startswith("transformers.models.llama")
    assert Chat(model.tokenizer).render([user("hi")], prompt=True)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("kind", "code", "words"),
    [("qwen", "LS4100", "Qwen2.5"), ("my_own_llm", "LS4102", ""), ("internlm2", "LS4100", "")],
)
def test_a_model_that_is_its_own_program_is_refused_with_what_to_use(kind, code, words, chat_base, mark):
    config = json.loads((chat_base / "config.json").read_text("utf-8"))
    (chat_base / "config.json").write_text(json.dumps({**config, "model_type": kind}), encoding="utf-8")
    source = resolve(str(with_programs(chat_base, mark)))
    with pytest.raises(ProblemsError) as error:
        find("auto", source).load(source)
    (problem,) = error.value.problems
    assert problem.code == code
    assert words in fix(problem)
    assert not mark.exists()


def test_a_tokenizer_that_is_a_program_is_refused(chat_base, mark):
    (chat_base / "tokenizer.json").unlink()
    source = resolve(str(with_programs(chat_base, mark, tokenizer_class="XTokenizer")))
    with pytest.raises(ProblemsError) as error:
        find("auto", source).tokenizer(source)
    assert error.value.problems[0].code == "LS4107"
    assert not mark.exists()


def test_attention_from_a_hub_is_not_fetched(chat_base, mark, monkeypatch):
    """Libraries take ``owner/kernel`` in a configuration for a program to download."""
    config = json.loads((chat_base / "config.json").read_text("utf-8"))
    told = {"attn_implementation": "owner/kernel", "_attn_implementation": "owner/kernel"}
    (chat_base / "config.json").write_text(json.dumps({**config, **told}), encoding="utf-8")
    source = resolve(str(chat_base))
    model = find("auto", source).load(source)
    assert "/" not in model.predictor.config._attn_implementation


def test_a_diffusers_folder_is_loaded_by_the_library_s_own_classes(tmp_path, tiny_base, mark):  # noqa: F811
    base = shutil.copytree(tiny_base, tmp_path / "base")
    index = json.loads((base / "model_index.json").read_text("utf-8"))
    index |= {
        "_class_name": ["pipeline", "Evil"],
        "unet": ["modeling_x", "Model"],
        "../chat": ["modeling_x", "Model"],
    }
    (base / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    for part in (base, base / "unet", base / "vae", base / "text_encoder", base / "tokenizer"):
        with_programs(part, mark)
    source = resolve(str(base))
    model = find("auto", source).load(source)
    assert type(model.modules["unet"]).__module__.startswith("diffusers.models")
    assert not mark.exists()


def test_a_captioner_with_programs_is_refused_with_what_to_use(tmp_path, mark):
    from lora_scripts.labeling._captioner import Asked
    from lora_scripts.labeling.captioners import qwen_vl
    from tests.labeling.captioners import tiny_models

    folder = with_programs(tiny_models.qwen_vl(tmp_path / "vl"), mark)
    with pytest.raises(ProblemsError) as error:
        qwen_vl.load(Asked(model=str(folder)))
    (problem,) = error.value.problems
    assert problem.code == "LS3153"
    assert problem.params["instead"] in fix(problem)
    assert not mark.exists()


def test_a_captioner_whose_attention_comes_from_a_hub_is_refused(tmp_path):
    from lora_scripts.labeling._captioner import Asked
    from lora_scripts.labeling.captioners import blip
    from tests.labeling.captioners import tiny_models

    folder = tiny_models.blip(tmp_path / "blip")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    config["vision_config"]["_attn_implementation"] = "owner/kernel"
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ProblemsError) as error:
        blip.load(Asked(model=str(folder)))
    assert error.value.problems[0].code == "LS3153"


def test_an_adapter_cannot_name_a_module_to_import(tmp_path, chat_base):
    """PEFT imports what ``megatron_core`` names."""
    import torch
    from safetensors.torch import save_file

    from lora_scripts.export.peft_layers import read_peft

    folder = tmp_path / "voice"
    folder.mkdir()
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
    save_file(
        {f"{name}A.weight": torch.ones(2, 4), f"{name}B.weight": torch.ones(4, 2)},
        folder / "adapter_model.safetensors",
    )
    config = {
        "peft_type": "LORA",
        "r": 2,
        "lora_alpha": 2,
        "megatron_config": {"a": 1},
        "megatron_core": "antigravity",
    }
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ProblemsError) as error:
        read_peft(folder)
    (problem,) = error.value.problems
    assert (problem.code, problem.params["what"]) == ("LS4301", "megatron_config")
