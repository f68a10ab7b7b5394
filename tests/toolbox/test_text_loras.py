"""Text LoRAs on one base: found, switched, combined, and refused with a reason."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lora_scripts.core.problems import ProblemsError
from lora_scripts.toolbox.talk import generate_texts
from lora_scripts.toolbox.text_loras import open_voices, read_text_lora, with_strength
from tests.texts import loras, small

ASKED = ["Where is my parcel?", "保修期是多久？"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return small.write_model(tmp_path_factory.mktemp("base") / "llama", "llama")


@pytest.fixture(scope="module")
def shop(tmp_path_factory, base):
    return loras.write_lora(tmp_path_factory.mktemp("one") / "shop", base, seed=1, system="You run a shop.")


@pytest.fixture(scope="module")
def pirate(tmp_path_factory, base):
    return loras.write_lora(tmp_path_factory.mktemp("two") / "pirate", base, seed=2)


def said(voices):
    return generate_texts(voices.model, ASKED, max_new_tokens=10, template=voices.template)


def by_peft(base, folder):
    """What PEFT's own loading of an adapter answers."""
    from peft import PeftModel

    model = loras.load(base)
    model.modules["model"] = PeftModel.from_pretrained(model.predictor, folder).merge_and_unload()
    return generate_texts(model, ASKED, max_new_tokens=10)


def code(error):
    return error.value.problems[0].code


def test_adapters_are_switched_while_the_base_stays_loaded(base, shop, pirate):
    voices = open_voices(str(base), [str(shop)])
    loaded, alone = voices.model.predictor, said(voices)
    assert alone == by_peft(base, shop)
    voices.speak([str(pirate)])
    assert said(voices) == by_peft(base, pirate)
    voices.speak([])
    assert said(voices) == generate_texts(loras.load(base), ASKED, max_new_tokens=10)
    voices.speak(["shop"])
    assert said(voices) == alone
    assert voices.model.predictor is loaded
    assert list(voices.known) == ["shop", "pirate"]


def test_adapters_are_combined_with_strengths(base, shop, pirate):
    voices = open_voices(str(base), [f"{shop}:0.5", str(pirate)])
    assert voices.active == {"shop": 0.5, "pirate": 1.0}
    both = said(voices)
    voices.speak(["pirate"])
    assert said(voices) != both
    voices.speak(["shop:0.25", "pirate", "shop:0.25"])
    assert said(voices) == both
    voices.speak(["shop:0"])
    assert voices.active == {}
    assert voices.system is None


def test_the_base_is_what_the_adapter_says_it_was_trained_on(shop, base):
    assert open_voices(None, [str(shop)]).model.description.source.path == Path(base)


def test_an_adapter_brings_the_prompt_and_template_it_was_trained_with(tmp_path, base, shop, pirate):
    other = loras.write_lora(tmp_path / "other", base, seed=3, thinking="drop")
    (other / "chat_template.jinja").write_text("{{ messages[-1]['content'] }}", "utf-8")
    voices = open_voices(str(base), [str(pirate)])
    assert voices.system is None
    voices.speak([str(shop)])
    assert voices.system == "You run a shop."
    assert not voices.thinking
    voices.speak([str(other)])
    assert voices.template == "{{ messages[-1]['content'] }}"
    assert voices.thinking


def test_two_folders_of_one_name_are_told_apart(tmp_path, base, shop):
    twin = loras.write_lora(tmp_path / "shop", base, seed=9)
    voices = open_voices(str(base), [str(shop), str(twin), str(shop)])
    assert voices.active == {"shop": 2.0, "shop-2": 1.0}


def test_what_is_no_adapter_is_named_before_the_base_is_loaded(tmp_path, base):
    picture = tmp_path / "style.safetensors"
    save_file({"lora_unet_a.lora_down.weight": torch.zeros(4, 8)}, str(picture))
    (tmp_path / "empty").mkdir()
    for given, expected in ((picture, "LS4350"), (tmp_path, "LS4350"), (tmp_path / "empty", "LS4300"),
                            (tmp_path / "absent", "LS4300")):  # fmt: skip
        with pytest.raises(ProblemsError) as error:
            open_voices("no/such/base/at/all", [str(given)])
        assert code(error) == expected


def test_an_adapter_of_another_base_changes_nothing(tmp_path, base, shop):
    wide = small.write_model(tmp_path / "wide", "llama", hidden_size=32, num_attention_heads=2)
    deep = small.write_model(tmp_path / "deep", "llama", num_hidden_layers=3)
    voices = open_voices(str(base), [str(shop)])
    before = said(voices)
    for other, expected in ((wide, "LS4028"), (deep, "LS4027")):
        stranger = loras.write_lora(tmp_path / f"of-{other.name}", other)
        with pytest.raises(ProblemsError) as error:
            voices.speak([str(stranger)])
        assert code(error) == expected
    assert voices.active == {"shop": 1.0}
    assert said(voices) == before


def test_an_unknown_name_is_answered_with_the_known_ones(base, shop):
    voices = open_voices(str(base), [str(shop)])
    for text in ("shpo", "shop:nan", "shop:", ":"):
        with pytest.raises(ProblemsError) as error:
            voices.speak([text])
        assert code(error) == "LS4353"
        assert error.value.problems[0].params["known"] == "shop"


def test_no_base_and_no_language_model(tmp_path, base, shop):
    from tests.families import tiny

    with pytest.raises(ProblemsError) as error:
        open_voices(None, [])
    assert code(error) == "LS4351"
    with pytest.raises(ProblemsError) as error:
        open_voices(str(tiny.write_folder(tmp_path / "sd")), [])
    assert code(error) == "LS4352"
    nameless = tmp_path / "nameless"
    nameless.mkdir()
    for file in shop.iterdir():
        (nameless / file.name).write_bytes(file.read_bytes())
    config = json.loads((nameless / "adapter_config.json").read_text("utf-8"))
    (nameless / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": None}))
    with pytest.raises(ProblemsError) as error:
        open_voices(None, [str(nameless)])
    assert code(error) == "LS4351"


def test_a_strength_stands_after_the_last_colon():
    assert with_strength("shop:0.5") == ("shop", 0.5)
    assert with_strength("C:\\voices\\shop") == ("C:\\voices\\shop", 1.0)
    assert with_strength("C:\\voices\\shop:-1") == ("C:\\voices\\shop", -1.0)
    assert with_strength("shop") == ("shop", 1.0)


def test_a_text_loras_weights_by_themselves_are_no_picture_lora(tmp_path, shop):
    alone = tmp_path / "alone.safetensors"
    alone.write_bytes((shop / "adapter_model.safetensors").read_bytes())
    with pytest.raises(ProblemsError) as error:
        read_text_lora(alone)
    assert [problem.code for problem in error.value.problems] == ["LS4300"]
