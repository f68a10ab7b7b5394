"""The cut-down tokenizer loads offline and can spell anything."""

import pytest

from demo.base.tokenizer import POSITIONS, write_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    from transformers import CLIPTokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)


@pytest.mark.parametrize("text", ["a red tower on the left, in the snow", "cyberpunk style, a violet boat"])
def test_captions_come_back_word_for_word(tokenizer, text):
    back = tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True)
    assert back.replace(" ,", ",") == text


def test_words_of_captions_are_single_pieces(tokenizer):
    for word in ("tower", "house", "tree", "car", "boat", "violet", "left", "middle", "right", "cyberpunk"):
        assert len(tokenizer.tokenize(word)) == 1, word


def test_unknown_words_are_spelled_not_dropped(tokenizer):
    ids = tokenizer("zqxv 城市").input_ids
    assert tokenizer.unk_token_id not in ids[1:-1]


def test_texts_are_padded_to_the_length_of_the_text_encoder(tokenizer):
    ids = tokenizer("a car", padding="max_length", truncation=True).input_ids
    assert len(ids) == POSITIONS
    assert ids[-1] == tokenizer.eos_token_id == len(tokenizer) - 1
