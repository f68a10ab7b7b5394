"""Pictures, strengths and sheets: deterministic, and no LoRA without effect."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lora_scripts.core.problems import ProblemsError
from lora_scripts.toolbox.drawing import Drawing, draw, load_base, parse_strengths
from lora_scripts.toolbox.loras import LoraChoice, parse_choice, put_on, set_strengths
from lora_scripts.toolbox.pictures import make_pictures
from lora_scripts.toolbox.sheets import contact_sheet

SHARED = Path(__file__).parents[3] / "shared" / "data" / "lora"
SMALL = {"steps": 2, "width": 16, "height": 16}


def same(one, other) -> bool:
    return bool(np.array_equal(np.asarray(one), np.asarray(other)))


@pytest.fixture
def model(folder):
    return load_base(str(folder), [])


def test_a_picture_depends_on_its_prompt_and_seed_and_not_on_its_neighbours(model):
    state = torch.get_rng_state()
    alone = make_pictures(model, ["a red house"], seed=5, **SMALL)
    among = make_pictures(model, ["a blue house", "a red house", "a red house"], seed=[5, 5, 6], **SMALL)
    assert same(alone[0], among[1])
    assert not same(among[1], among[2])
    assert not same(among[0], among[1])
    assert alone[0].size == (16, 16)
    assert torch.equal(torch.get_rng_state(), state)


def test_encoded_prompts_draw_the_same_without_the_text_encoder(model):
    wanted = make_pictures(model, ["a red house"], negative_prompt="blurry", seed=5, **SMALL)
    encoded = model.family.prompts(model, ["a red house", "blurry"])
    model.release("text_encoder")
    found = make_pictures(model, ["a red house"], negative_prompt="blurry", encoded=encoded, seed=5, **SMALL)
    assert same(wanted[0], found[0])


def test_the_negative_prompt_counts(model):
    one = make_pictures(model, ["a red house"], negative_prompt="blurry", seed=5, **SMALL)
    assert not same(one[0], make_pictures(model, ["a red house"], seed=5, **SMALL)[0])


def test_sides_that_do_not_divide_are_refused_before_drawing(model):
    with pytest.raises(ProblemsError) as caught:
        make_pictures(model, ["a"], width=18, height=17)
    assert [p.code for p in caught.value.problems] == ["LS4043", "LS4043"]
    assert caught.value.problems[0].params["near"] == 16


def test_strength_zero_is_the_base_and_strengths_grow(model, lora):
    base = make_pictures(model, ["a red house"], seed=5, **SMALL)[0]
    pipe = model.family.pipeline(model)
    choices = [LoraChoice(lora, 0.5)]
    assert put_on(pipe, choices) == [72]
    distances = []
    for factor in (0.0, 0.5, 1.0):
        set_strengths(pipe, choices, factor)
        drawn = make_pictures(model, ["a red house"], seed=5, pipe=pipe, **SMALL)[0]
        distances.append(np.abs(np.asarray(drawn, float) - np.asarray(base, float)).mean())
    assert distances[0] == 0.0
    assert 0 < distances[1] < distances[2]


@pytest.mark.long
def test_several_loras_add_up_in_any_order(folder, lora, second_lora):
    drawn = []
    for order in ((lora, second_lora), (second_lora, lora), (lora,)):
        model = load_base(str(folder), [])
        pipe = model.family.pipeline(model)
        choices = [LoraChoice(path, 0.5) for path in order]
        put_on(pipe, choices)
        set_strengths(pipe, choices)
        drawn.append(np.asarray(make_pictures(model, ["a red house"], seed=5, pipe=pipe, **SMALL)[0], int))
    assert np.abs(drawn[0] - drawn[1]).max() <= 1
    assert np.abs(drawn[0] - drawn[2]).max() > 1


def test_the_exported_file_draws_what_the_trained_model_draws(folder, tmp_path):
    from lora_scripts.adapters.attach import attach, detach
    from lora_scripts.adapters.spec import AdapterSpec
    from lora_scripts.export.facts import ExportFacts
    from lora_scripts.export.kohya import export_lora

    model = load_base(str(folder), [])
    adapter = attach(model, AdapterSpec(4, 2.0), seed=3)
    with torch.no_grad():
        for name, parameter in adapter.parameters.items():
            if ".lora_B." in name:
                parameter.normal_(0, 0.3, generator=torch.Generator().manual_seed(len(name)))
    trained = make_pictures(model, ["a red house"], seed=5, **SMALL)[0]
    path = tmp_path / "x.safetensors"
    export_lora(path, model, adapter, ExportFacts("x", {}), dtype=torch.float32)
    detach(model, adapter)
    pipe = model.family.pipeline(model)
    put_on(pipe, [LoraChoice(path)])
    assert same(trained, make_pictures(model, ["a red house"], seed=5, pipe=pipe, **SMALL)[0])


def test_a_choice_is_a_file_with_or_without_a_strength(lora, tmp_path):
    assert parse_choice(str(lora)) == LoraChoice(lora, 1.0)
    assert parse_choice(f"{lora}:0.8") == LoraChoice(lora, 0.8)
    assert parse_choice(f"{lora}:-1") == LoraChoice(lora, -1.0)
    for text in (
        f"{lora}:strong",
        str(tmp_path / "none.safetensors"),
        str(tmp_path / "none.safetensors:0.8"),
    ):
        with pytest.raises(ProblemsError) as caught:
            parse_choice(text)
        assert caught.value.problems[0].code == "LS4040"


def test_strengths_are_numbers_with_commas():
    assert parse_strengths(None) == [1.0]
    assert parse_strengths("0,0.4，1") == [0.0, 0.4, 1.0]
    with pytest.raises(ProblemsError) as caught:
        parse_strengths("0,strong,x")
    assert [p.code for p in caught.value.problems] == ["LS4044", "LS4044"]


@pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data/lora is not here")
@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("sd15_old_processor_layout.safetensors", "LS4041"),
        ("sd15_pti_layout.safetensors", "LS4041"),
        ("sd15_diffusers_layout.safetensors", "LS4041"),
        ("sd15_textual_inversion.safetensors", "LS4042"),
    ],
)
def test_a_file_that_would_do_nothing_is_an_error(model, name, code):
    with pytest.raises(ProblemsError) as caught:
        put_on(model.family.pipeline(model), [LoraChoice(SHARED / name)])
    assert caught.value.problems[0].code == code


@pytest.mark.long
def test_an_order_draws_a_grid_on_the_base_that_the_lora_names(tmp_path, lora):
    order = Drawing(
        prompts=("a red house", "a lake"),
        loras=(f"{lora}:0.8",),
        strengths="0,1",
        output=tmp_path / "out",
        **SMALL,
    )
    files = draw(order)
    names = [path.name for path in files]
    assert names == [
        "0001-seed42-strength0.png",
        "0001-seed42-strength1.png",
        "0002-seed42-strength0.png",
        "0002-seed42-strength1.png",
        "sheet.png",
    ]
    first = {path.name: path.read_bytes() for path in files}
    assert {path.name: path.read_bytes() for path in draw(order)} == first
    text = Image.open(files[1]).text["parameters"]
    assert text.startswith("a red house <lora:style:0.8>")
    assert "Seed: 42" in text


def test_one_picture_goes_into_the_file_that_was_named(tmp_path, folder):
    order = Drawing(prompts=("a red house",), base=str(folder), output=tmp_path / "one.png", **SMALL)
    assert draw(order) == [tmp_path / "one.png"]
    assert Image.open(tmp_path / "one.png").size == (16, 16)


def test_a_sheet_has_its_pictures_where_its_labels_say():
    red, blue = Image.new("RGB", (40, 30), "red"), Image.new("RGB", (40, 30), "blue")
    plain = contact_sheet([[red, blue], [blue]])
    assert plain.size == (2 * 48 + 8, 2 * 38 + 8)
    assert plain.getpixel((10, 10)) == (255, 0, 0)
    assert plain.getpixel((58, 10)) == (0, 0, 255)
    assert plain.getpixel((58, 50)) == (255, 255, 255)
    labelled = contact_sheet([[red, blue]], rows=["a long prompt with words"], columns=["0", "1"])
    assert labelled.width > plain.width
    left = np.asarray(labelled)[:, :120]
    assert (left < 128).any()
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet([[]])
