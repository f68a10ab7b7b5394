"""How a caption is worded: fixed words, exchanged and barred ones, lengths in CLIP's own tokens."""

from __future__ import annotations

import pytest

from lora_scripts.families._clip import cutter
from lora_scripts.labeling._captioner import Tag, Words
from lora_scripts.labeling.phrasing import BadTemplate, Phrasing, check_template, count, listed, pairs


def tags(*names: str) -> tuple[Tag, ...]:
    return tuple(Tag(name, 1.0) for name in names)


def text(words: Words, folder: str = "f", before: str = "", join: str = "keep", **rules) -> str:
    return Phrasing(**rules).phrase(words, folder, before, join).text


def test_a_sentence_comes_before_its_tags():
    assert text(Words("A cat on a roof.", tags("night", "neon"))) == "A cat on a roof, night, neon"
    assert text(Words("A cat on a roof.")) == "A cat on a roof."


def test_the_template_of_the_contract():
    rules = {"template": "portrait of {trigger}, {caption}", "trigger": "NAME"}
    assert text(Words("a woman"), **rules) == "portrait of NAME, a woman"
    assert text(Words(), **rules) == "portrait of NAME"


def test_the_trigger_word_comes_once():
    assert text(Words("a cat"), trigger="sks") == "sks, a cat"
    assert text(Words("a SKS cat"), trigger="sks") == "a SKS cat"
    assert text(Words("risks"), trigger="sks") == "sks, risks"


def test_words_are_exchanged_as_words():
    assert text(Words("A Cat in the category"), replace=(("cat", "dog"),)) == "A dog in the category"
    assert text(Words("", tags("long_hair")), replace=(("long hair", "hair"),)) == "hair"
    assert text(Words("猫在屋顶"), replace=(("猫", "狗"),)) == "狗在屋顶"
    assert text(Words("a\\1 b"), replace=(("b", r"\1"),)) == "a\\1 \\1"


def test_barred_words_leave_no_trace():
    said = Words("a photo of a cat, watermark, at night", tags("watermark", "signature_mark", "cat"))
    barred = ("watermark", "a photo of", "Signature Mark")
    assert text(said, blacklist=barred) == "a cat, at night, cat"


def test_new_words_join_those_that_are_there_once():
    said = Words("", tags("cat", "roof"))
    assert text(said, before="a cat, by hand", join="append") == "a cat, by hand, roof"
    assert text(said, before="by hand", join="prepend", trigger="sks") == "sks, cat, roof, by hand"
    assert text(said, before=" ,", join="append") == "cat, roof"


def test_tokens_are_those_of_clip():
    transformers = pytest.importorskip("transformers")
    from lora_scripts.families._clip import merges, vocabulary

    real = transformers.CLIPTokenizer(vocab=vocabulary(), merges=merges())
    for caption in ("a cat on a very wide mountainside", "Neon-lit 東京 cityscape!", ""):
        assert count(cutter(), caption) == len(real(caption, add_special_tokens=False).input_ids)


@pytest.mark.parametrize("most", range(2, 12))
def test_a_caption_is_shortened_at_a_whole_word(most):
    said = "a cat on a very wide mountainside, looking over Zhangjiajie"
    phrase = Phrasing(most=most, cutter=cutter()).phrase(Words(said), "f")
    assert count(cutter(), phrase.text) <= most
    assert said.startswith(phrase.text)
    assert set(phrase.text.replace(",", "").split()) <= set(said.replace(",", "").split())
    assert phrase.cut
    assert said.endswith(phrase.cut)


def test_without_a_maximum_nothing_is_cut_and_what_training_would_cut_is_named():
    said = ", ".join(["word"] * 50)
    phrase = Phrasing(cutter=cutter()).phrase(Words(said), "f")
    assert phrase.text == said
    assert phrase.tokens == 99
    assert phrase.cut.count("word") == 12


@pytest.mark.parametrize(
    ("template", "wrong"), [("{captoin}", "captoin"), ("{caption", ""), ("{caption!r}", "")]
)
def test_a_wrong_template_is_refused(template, wrong):
    with pytest.raises(BadTemplate) as caught:
        check_template(template)
    assert str(caught.value) == wrong


def test_lists_as_they_are_typed():
    assert listed(["a, b", "c，d", " "]) == ("a", "b", "c", "d")
    assert pairs(["a=b=c", "x="]) == [("a", "b=c"), ("x", "")]
    with pytest.raises(ValueError, match="nothing"):
        pairs(["nothing"])
