"""What is made of generated text: one line, no tokens, no stutter, no half sentence."""

from __future__ import annotations

import pytest

from lora_scripts.labeling.captioners._sentences import clean, whole_sentences
from lora_scripts.labeling.captioners.blip import _APART


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  a cat\n on\ta  mat \r\n", "a cat on a mat"),
        ("<s>a cat</s><pad><pad>", "a cat"),
        ("[CLS] a cat [SEP]", "a cat"),
        ("A cat.<|im_end|><|endoftext|>", "A cat."),
        ("a cat\x00 \ufffd", "a cat"),
        ("<think>\nA cat? Yes.\n</think>\n\nA cat.", "A cat."),
        ("It is a cat.</think>A cat.", "A cat."),
        ("<think>A cat, or", ""),
        ("arafed cat with arafed ears", "arafed cat with arafed ears"),
        ("a cat a cat a cat", "a cat"),
        ("a cat, a cat, a cat.", "a cat."),
        ("a man with a hat with a hat and a coat", "a man with a hat and a coat"),
        ("a very very old house in bora bora", "a very very old house in bora bora"),
        ("a lamp lamp lamp lamp", "a lamp"),
        ("a cat and a cat", "a cat and a cat"),
        ("一只猫，一只猫，一只猫，在屋顶上", "一只猫，在屋顶上"),
        ("一步一步走上台阶", "一步一步走上台阶"),
        ("", ""),
        ("...", "..."),
        ("- - - -", "-"),
    ],
)
def test_clean(text, expected):
    assert clean(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A cat sits. It looks at the", "A cat sits."),
        ("A cat sits. It looks up.", "A cat sits. It looks up."),
        ("A 2.5 m tall cat. It", "A 2.5 m tall cat."),
        ("a cat that sits on", "a cat that sits on"),
        ("一只猫坐着。它看着", "一只猫坐着。"),
        ("", ""),
    ],
)
def test_whole_sentences(text, expected):
    assert whole_sentences(text) == expected


def test_words_that_a_tokenizer_took_apart():
    assert _APART.sub("", "a man ' s hat , a dog ' s tail .") == "a man's hat, a dog's tail."
    assert _APART.sub("", "a 'stop' sign, ' salt '") == "a 'stop' sign, ' salt '"
