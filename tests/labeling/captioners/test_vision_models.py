"""BLIP, BLIP-2, Florence-2 and Qwen-VL by their real classes and processors, small and with random weights:
that they load, that a batch says what single pictures say, what is refused. The quality of captions is not
judged."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lora_scripts.core import catalogue
from lora_scripts.core.catalogue import exit_code
from lora_scripts.core.problems import Problem, ProblemsError
from lora_scripts.labeling._captioner import Asked
from lora_scripts.labeling.captioners import _models, blip, florence2, qwen_vl
from lora_scripts.labeling.captioners._sentences import clean
from lora_scripts.labeling.choose import module
from tests.labeling.captioners import tiny_models

MAKERS: dict[str, tuple[Any, Callable[..., Path]]] = {
    "blip": (blip, tiny_models.blip),
    "blip-2": (blip, tiny_models.blip2),
    "florence2": (florence2, tiny_models.florence2),
    "qwen2_vl": (qwen_vl, lambda folder: tiny_models.qwen_vl(folder, "qwen2_vl")),
    "qwen2_5_vl": (qwen_vl, lambda folder: tiny_models.qwen_vl(folder, "qwen2_5_vl")),
    "qwen3_vl": (qwen_vl, lambda folder: tiny_models.qwen_vl(folder, "qwen3_vl")),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in made:
            made[kind] = MAKERS[kind][1](tmp_path_factory.mktemp(kind) / "model")
        return made[kind]

    return folder


@pytest.fixture
def copied(saved, tmp_path) -> Callable[[str], Path]:
    return lambda kind: Path(shutil.copytree(saved(kind), tmp_path / kind))


def pictures() -> list[Image.Image]:
    draws = np.random.default_rng(0)
    noise = [Image.fromarray(draws.integers(0, 256, (h, w, 3), np.uint8)) for h, w in ((40, 60), (90, 40))]
    return [noise[0], Image.new("RGB", (30, 80), (255, 0, 0)), noise[1]]


def asked(folder: Path, **more: Any) -> Asked:
    return Asked(model=str(folder), device="cpu", **{"max_new_tokens": 8, **more})


def refused(file: Any, folder: Path, **more: Any) -> Problem:
    with pytest.raises(ProblemsError) as caught:
        file.load(asked(folder, **more))
    return caught.value.problems[0]


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("kind", MAKERS)
def test_a_batch_says_what_single_pictures_say(saved, kind, beams):
    file, _ = MAKERS[kind]
    captioner = file.load(asked(saved(kind), beams=beams, batch_size=3))
    assert captioner.batch_size == 3
    assert captioner.loaded.dtype == torch.float32
    together = captioner.describe(pictures())
    assert together == [captioner.describe([picture])[0] for picture in pictures()]
    texts = [words.text for words in together]
    assert beams > 1 or len(set(texts)) > 1, "pictures are looked at"
    for text in texts:
        assert text == " ".join(text.split())
        assert not any(mark in text for mark in ("<|", "</s>", "<image>", "[SEP]", "[CLS]", "assistant"))
    assert captioner.describe(pictures()) == together
    captioner.close()


def test_blip_says_what_its_own_generation_says(saved):
    """Against the library's way as its documentation has it, without a class of ours."""
    from transformers import BlipForConditionalGeneration, BlipProcessor

    model = BlipForConditionalGeneration.from_pretrained(saved("blip"))
    processor = BlipProcessor.from_pretrained(saved("blip"))
    captioner = blip.load(asked(saved("blip"), max_new_tokens=5))
    for picture in pictures():
        ids = model.generate(**processor(images=picture, return_tensors="pt"), max_new_tokens=5)
        expected = clean(processor.decode(ids[0], skip_special_tokens=True))
        assert captioner.describe([picture])[0].text.replace(" ", "") == expected.replace(" ", "")


def test_blip_continues_what_it_is_given(saved):
    captioner = blip.load(asked(saved("blip"), instruction="a red boat"))
    assert all(words.text.startswith("a red boat") for words in captioner.describe(pictures()))
    plain = blip.load(asked(saved("blip")))
    assert not all(words.text.startswith("a red boat") for words in plain.describe(pictures()))


def test_blip_never_writes_past_its_room(saved):
    """The small one has 24 places; asking for more would read positions that do not exist."""
    for instruction in (None, "a red boat on the sea"):
        captioner = blip.load(asked(saved("blip"), max_new_tokens=200, instruction=instruction))
        assert len(captioner.describe(pictures())) == 3


def test_blip2_answers_behind_the_prompt(saved):
    captioner = blip.load(asked(saved("blip-2"), instruction="a red boat beside the"))
    words = captioner.describe(pictures())
    assert words == [captioner.describe([picture])[0] for picture in pictures()]
    assert not any(word.text.startswith("a red boat beside the") for word in words)
    assert words != blip.load(asked(saved("blip-2"))).describe(pictures())


def test_blip2_of_before_its_picture_token_was_named(copied):
    folder = copied("blip-2")
    before = blip.load(asked(folder)).describe(pictures())
    tiny_models.edit(folder / "config.json", image_token_index=None)
    assert blip.load(asked(folder)).describe(pictures()) == before


def test_florence_takes_its_own_prompts_only(saved):
    prompts = [
        florence2.task_of(text) for text in (None, "caption", "<MORE_DETAILED_CAPTION>", "Detailed Caption")
    ]
    assert prompts == ["<DETAILED_CAPTION>", "<CAPTION>", "<MORE_DETAILED_CAPTION>", "<DETAILED_CAPTION>"]
    problem = refused(florence2, saved("florence2"), instruction="what is this?")
    assert problem.code == "LS3160"
    assert "more detailed caption" in problem.params["known"]
    said = [
        florence2.load(asked(saved("florence2"), instruction=t)).describe(pictures()) for t in florence2.TASKS
    ]
    assert said[0] != said[1] or said[1] != said[2], "the prompt reaches the model"


def test_the_instruction_reaches_a_chat_model(saved):
    folder = saved("qwen2_5_vl")
    default = qwen_vl.load(asked(folder)).describe(pictures())
    own = qwen_vl.load(asked(folder, instruction="a small green lamp")).describe(pictures())
    assert default != own
    assert own == qwen_vl.load(asked(folder, instruction="a small green lamp")).describe(pictures())


def test_chat_models_see_at_most_a_megapixel_and_no_strips():
    assert qwen_vl.shown(Image.new("RGB", (640, 480))).size == (640, 480)
    large = qwen_vl.shown(Image.new("RGB", (6000, 2000)))
    assert large.width * large.height <= qwen_vl.LARGEST
    assert large.width / large.height == pytest.approx(3, rel=0.01)
    strip = qwen_vl.shown(Image.new("RGB", (2000, 4), "red"))
    assert strip.size == (2000, 40)
    assert (strip.getpixel((0, 0)), strip.getpixel((0, 20))) == ((255, 255, 255), (255, 0, 0))


def test_a_strip_does_not_break_a_batch(saved):
    captioner = qwen_vl.load(asked(saved("qwen3_vl")))
    assert len(captioner.describe([Image.new("RGB", (3000, 3), "red"), pictures()[0]])) == 2


@pytest.mark.parametrize("kind", ["blip", "florence2", "qwen3_vl"])
def test_bf16_is_computed_in_bf16(saved, kind):
    captioner = MAKERS[kind][0].load(asked(saved(kind), dtype="bf16"))
    assert {p.dtype for p in captioner.loaded.model.parameters()} == {torch.bfloat16}
    assert len(captioner.describe(pictures())) == 3


def test_settings_for_drawing_lots_are_not_followed(copied):
    folder = copied("qwen2_5_vl")
    expected = qwen_vl.load(asked(folder)).describe(pictures())
    tiny_models.edit(folder / "generation_config.json", do_sample=True, temperature=5.0, top_p=0.9, top_k=50)
    assert [qwen_vl.load(asked(folder)).describe(pictures()) for _ in range(2)] == [expected] * 2


@pytest.mark.parametrize("kind", ["blip", "florence2", "qwen3_vl"])
def test_a_folder_with_pickles_only_is_refused_and_nothing_is_opened(copied, tmp_path, kind):
    folder, canary = copied(kind), tmp_path / "ran"
    (folder / "model.safetensors").unlink()
    code = f"cos\nsystem\n(S'touch {canary}'\ntR."
    (folder / "pytorch_model.bin").write_bytes(code.encode())
    assert refused(MAKERS[kind][0], folder).code == "LS4013"
    (folder / "pytorch_model.bin").rename(folder / "model.safetensors")
    assert refused(MAKERS[kind][0], folder).code in {"LS4003", "LS4004", "LS4005"}
    (folder / "model.safetensors").unlink()
    assert refused(MAKERS[kind][0], folder).code == "LS3156"
    assert not canary.exists()


@pytest.mark.parametrize("kind", ["blip", "florence2", "qwen3_vl"])
@pytest.mark.parametrize(
    ("name", "auto"),
    [
        ("config.json", {"AutoConfig": "evil.C", "AutoModelForImageTextToText": "evil.M"}),
        ("tokenizer_config.json", {"AutoTokenizer": ["evil.T", "evil.T"]}),
        ("preprocessor_config.json", {"AutoImageProcessor": "evil.I", "AutoProcessor": "evil.P"}),
    ],
)
def test_code_in_a_folder_is_refused_and_never_run(copied, tmp_path, kind, name, auto):
    folder, canary = copied(kind), tmp_path / "ran"
    body = f"open({str(canary)!r}, 'w')\nclass C: pass\nM = T = I = P = C\n"
    (folder / "evil.py").write_text(body, encoding="utf-8")
    if not (folder / name).exists():
        (folder / name).write_text("{}", encoding="utf-8")
    tiny_models.edit(folder / name, auto_map=auto)
    assert refused(MAKERS[kind][0], folder).code == "LS3153"
    assert not canary.exists()


def test_another_kind_of_model_is_sent_to_its_captioner(saved, copied, tmp_path):
    problem = refused(qwen_vl, saved("blip"))
    assert (problem.code, problem.params["other"]) == ("LS3154", "blip")
    assert refused(blip, saved("qwen3_vl")).params["other"] == "qwen-vl"
    assert refused(blip, saved("florence2")).params["other"] == "florence2"
    folder = copied("blip")
    tiny_models.edit(folder / "config.json", model_type="next_years_model")
    assert refused(blip, folder).code == "LS3155"
    (folder / "selected_tags.csv").write_text("name,category\n", encoding="utf-8")
    assert refused(blip, folder).params["other"] == "wd14"
    assert refused(blip, tmp_path).code == "LS3161"


def test_damage_is_said_and_never_filled_with_noise(copied):
    folder = copied("blip")
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    lost = next(name for name in weights if name.endswith("query.weight"))
    save_file({n: w for n, w in weights.items() if n != lost}, folder / "model.safetensors", {"format": "pt"})
    problem = refused(blip, folder)
    assert (problem.code, problem.params["count"]) == ("LS3158", 1)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    (folder / "processor_config.json").rename(folder / "aside.json")
    assert refused(blip, folder).code == "LS3157"
    (folder / "aside.json").rename(folder / "processor_config.json")
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        (folder / name).unlink(missing_ok=True)
    assert refused(blip, folder).code == "LS3157"
    (folder / "config.json").write_text("{", encoding="utf-8")
    assert refused(blip, folder).code == "LS3157"


def test_a_base_model_without_a_template_is_refused(copied):
    folder = copied("qwen2_vl")
    (folder / "chat_template.jinja").unlink()
    assert refused(qwen_vl, folder).code == "LS3159"


def test_a_device_that_is_not_there(saved, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device in ("cuda", "cuda:7", "nonsense"):
        with pytest.raises(ProblemsError) as caught:
            blip.load(Asked(model=str(saved("blip")), device=device))
        assert caught.value.problems[0].code == "LS3166"


@pytest.mark.parametrize("name", ["blip", "florence2", "qwen-vl", "wd14"])
def test_a_model_that_cannot_be_had_says_how_to_go_on(name, monkeypatch):
    """The hub is not there, and nothing is cached."""
    asked_for: list[str] = []

    def unreachable(repo: str, *_: object) -> Path:
        asked_for.append(repo)
        params = {"repo": repo, "endpoint": "http://hub", "reason": "no route"}
        raise ProblemsError(Problem("LS4006", params))

    monkeypatch.setattr(_models._hub, "fetch", unreachable)
    with pytest.raises(ProblemsError) as caught:
        module(name).load(Asked())
    (problem,) = caught.value.problems
    assert problem.code == "LS3150"
    assert exit_code(caught.value.problems) == 4
    assert asked_for == [module(name).DEFAULT_MODEL]
    assert problem.params["model"] == asked_for[0]
    for language in catalogue.LANGUAGES:
        entry = catalogue._texts(language)["LS3150"]
        for way in ("HF_ENDPOINT", "ModelScope", "--captioner template", "--model builtin:demo"):
            assert way in entry["fix"]


def test_names_are_told_from_paths(monkeypatch, tmp_path):
    found: list[str] = []
    monkeypatch.setattr(_models._hub, "fetch", lambda repo, *_: found.append(repo) or tmp_path)
    monkeypatch.setattr(
        _models._hub, "fetch_from_modelscope", lambda repo, *_: found.append(repo) or tmp_path
    )
    monkeypatch.chdir(tmp_path)
    _models.locate("Qwen/Qwen2.5-VL-3B-Instruct")
    _models.locate("modelscope:Qwen/Qwen2-VL-2B-Instruct")
    assert found == ["Qwen/Qwen2.5-VL-3B-Instruct", "Qwen/Qwen2-VL-2B-Instruct"]
    (tmp_path / "models" / "blip").mkdir(parents=True)
    assert _models.locate("models/blip") == Path("models/blip")
    for wrong in ("models/blib", "models/blip/model.safetensors", "./nowhere/blip"):
        with pytest.raises(ProblemsError) as caught:
            _models.locate(wrong)
        assert caught.value.problems[0].code == "LS3151"
    with pytest.raises(ProblemsError) as caught:
        _models.locate("builtin:nothing")
    assert caught.value.problems[0].code == "LS3167"


def test_modelscope_without_its_library(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "modelscope", None)
    with pytest.raises(ProblemsError) as caught:
        _models.locate("modelscope:Qwen/Qwen2-VL-2B-Instruct")
    assert caught.value.problems[0].code == "LS3152"
    assert "modelscope" in caught.value.problems[0].params["command"]
