"""Mirrored pictures, masks and long captions, each against a computation of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lora_scripts.core.problems import Location, ProblemsError
from lora_scripts.data.images import examine
from lora_scripts.data.manifest import Example
from lora_scripts.data.masks import find_masks
from lora_scripts.data.sample import Sample
from lora_scripts.data.samples import samples_of
from lora_scripts.families import _clip, _stages
from lora_scripts.families._base import Draw
from lora_scripts.families._source import find, resolve


@pytest.fixture(scope="module")
def model(folder):
    source = resolve(str(folder))
    return find("auto", source).load(source)


def sample(tmp_path: Path, *, masked: bool = True) -> Sample:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (24, 24, 4), dtype=np.uint8)
    pixels[..., 3] = 255 * (np.arange(24) < 10)
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    found, _ = examine(
        [Example({"image": path, "name": "a.png", "caption": "a red house"}, Location("m", 1))]
    )
    masks = find_masks(found, "alpha")[0] if masked else {}
    return samples_of(found, resolution=16, step=4, masks=masks)[0]


def test_the_mirrored_side_is_encoded_from_mirrored_pixels(model, tmp_path):
    stage = _stages.latents_stage(model, torch.float32, "white")
    one = sample(tmp_path)
    other = replace(one, flipped=True)
    assert stage.key(one) != stage.key(other)
    with Image.open(one.picture.path) as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "turned.png")
    turned = replace(one, picture=replace(one.picture, path=tmp_path / "turned.png"))
    found, wanted = stage.run([other])[0]["latents"], stage.run([turned])[0]["latents"]
    assert torch.allclose(found, wanted, atol=1e-2)
    assert not torch.allclose(found, stage.run([one])[0]["latents"], atol=1e-2)


def test_masks_lie_on_latents_and_turn_with_them(model, tmp_path):
    stage = _stages.mask_stage(model.family.latent_factor(model))
    one = sample(tmp_path)
    mask = stage.run([one])[0]["mask"]
    assert mask.shape == (1, 8, 8)
    assert mask.dtype == torch.float32
    share = 10 / 24 * 8
    expected = torch.tensor([min(1.0, max(0.0, share - place)) for place in range(8)])
    assert torch.allclose(mask[0], expected.expand(8, 8), atol=0.03)
    assert torch.equal(stage.run([replace(one, flipped=True)])[0]["mask"], mask.flip(-1))
    assert (stage.run([replace(one, mask=None)])[0]["mask"] == 1).all()
    keys = {stage.key(each) for each in (one, replace(one, flipped=True), replace(one, mask=None))}
    assert len(keys) == 3


def test_a_picture_that_is_gone_is_a_problem_with_a_name(model, tmp_path):
    one = sample(tmp_path)
    one.picture.path.unlink()
    for stage in (_stages.latents_stage(model, torch.float32, "white", cached=False), _stages.mask_stage(2)):
        with pytest.raises(ProblemsError) as caught:
            stage.run([one])
        assert caught.value.problems[0].code == "LS2057"


@pytest.mark.parametrize("padding", ["<|endoftext|>", "!"])
def test_pieces_have_ends_of_their_own(padding):
    tokenizer = _clip.tokenizer(padding=padding)
    caption = " ".join(["house"] * 80)
    (rows,) = _clip.pieces(tokenizer, caption, 225).tolist()
    house, pad = tokenizer("house", add_special_tokens=False).input_ids[0], tokenizer.pad_token_id
    assert rows[0] == [49406, *[house] * 75, 49407]
    assert rows[1] == [49406, *[house] * 5, 49407, *[pad] * 70]
    assert rows[2] == [49406, 49407, *[pad] * 75]
    (cut,) = _clip.pieces(tokenizer, " ".join(["house"] * 500), 150).tolist()
    assert cut == [[49406, *[house] * 75, 49407]] * 2


def test_a_short_caption_is_its_first_piece(model):
    plain = model.family.tokenize(model, ["a red house"])["ids"]
    assert torch.equal(_clip.pieces(model.tokenizer, "a red house", 150)[0, 0], plain[0])


def test_embeddings_of_pieces_are_joined_as_sd_scripts_joins_them(model):
    """Its order: first start, then 1..75 of each piece, then the last end (``get_hidden_states``)."""
    caption = ", ".join(f"house number {n}" for n in range(30))
    ids = _stages.tokenized(model, caption, 150)
    assert ids["ids"].shape == (1, 2, 77)
    with torch.no_grad():
        states = model.modules["text_encoder"](ids["ids"][0]).last_hidden_state
        found = _stages.embedded(model, ids)["text"]
    wanted = torch.cat([states[0, :1], states[0, 1:76], states[1, 1:76], states[1, 76:]])
    assert found.shape == (1, 152, 64)
    assert torch.allclose(found[0], wanted, atol=1e-6)


def test_long_captions_train_and_are_not_taken_for_short_ones(model, tmp_path):
    one = sample(tmp_path)
    usual, longer = (_stages.text_stage(model, torch.float32, tokens) for tokens in (75, 150))
    assert usual.key(one) != longer.key(one)
    latents = _stages.latents_stage(model, torch.float32, "white").run([one])[0]
    for stage in (longer, _stages.ids_stage(model, 150)):
        item = {**latents, **stage.run([one])[0], **_stages.mask_stage(2).run([one])[0]}
        batch = model.family.collate(model, [item, item], [Draw(1), Draw(2)])
        assert batch["mask"].shape == (2, 1, 8, 8)
        assert torch.isfinite(model.family.predict(model, batch)).all()


def test_the_words_that_are_cut_are_the_tokenizer_s_own():
    cut = _clip.cutter()
    tokenizer = _clip.tokenizer()
    for caption in ("a red house, " * 40, "赛博朋克城市 " * 30, "naïve café’s 12345 !!! " * 20):
        count, lost = cut(caption, 75)
        ids = tokenizer(caption, add_special_tokens=False, verbose=False).input_ids
        assert count == len(ids) > 75
        assert lost and caption.rstrip().endswith(lost)  # noqa: PT018
    assert cut("a short one", 75) == (0, "")
    assert cut("a house " * 37, 75) == (74, "")
