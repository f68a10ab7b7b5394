"""The rebuilt tokenizer of ChatGLM splits text exactly as SentencePiece does, and text never becomes a token
that steers the conversation."""

from __future__ import annotations

import random

import pytest

from lora_scripts.core.problems import ProblemsError
from lora_scripts.families import _chatglm_tokenizer as tokenizers
from lora_scripts.families._chatglm_chat import SPECIALS
from tests.families import chatglm_toy as toy

PIECES = (
    *("您好", "保修期", "哈", "哈哈哈", "，", "。", "　", "１２"),
    *("the ", "return", "sop", "eop", "sophisticated", "naïve", "Größe", "Ω"),
    *(" ", "  ", "   ", "        ", "\n", "\n\n", "\t", "\r\n", "\u200b", "▁"),
    *("🙂", "👩‍👩‍👧", "é", "é", "\x00", "�"),
    *("def f(x):\n    return x", "0", "12", "3.14", "if x:\n\t"),
    *(*SPECIALS, "</s>", "<s>", "<unk>", "<0x0A>"),
)
EXACT = ({}, {"remove_extra_whitespaces": True}, {"add_dummy_prefix": False}, {"byte_fallback": False})
TALK = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "  您好, where is 42?"},
    {"role": "assistant", "content": "In the\n\nbook 🙂"},
    {"role": "user", "content": "Which?"},
    {"role": "assistant", "content": "The third one."},
]


def texts(count: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return ["".join(draw.choices(PIECES, k=draw.randint(0, 12))) for _ in range(count)]


def folder(tmp_path, **changes):
    (tmp_path / "tokenizer.model").write_bytes(toy.sentencepiece_model(**changes))
    return tmp_path


def load(tmp_path, generation=3, **changes):
    return tokenizers.load(folder(tmp_path, **changes), generation, context=128)


def pieces_of(text, **changes):
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(model_proto=toy.sentencepiece_model(**changes)).encode(text)


@pytest.mark.parametrize("changes", EXACT, ids=str)
def test_the_fast_tokenizer_splits_as_sentencepiece(tmp_path, changes):
    tokenizer = load(tmp_path, **changes)
    assert tokenizer.is_fast
    for text in [*toy.ROWS, *texts(2000)]:
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == pieces_of(text, **changes), text


def test_a_model_that_changes_its_text_is_left_to_sentencepiece(tmp_path):
    tokenizer = load(tmp_path, normalization_rule_name="nmt_nfkc")
    assert not tokenizer.is_fast
    for text in [*toy.ROWS, *texts(500)]:
        found = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert found == pieces_of(text, normalization_rule_name="nmt_nfkc"), text
    assert (
        tokenizer.decode(pieces_of("您好 🙂 １２ return", normalization_rule_name="nmt_nfkc"))
        == "您好 🙂 12 return"
    )


@pytest.mark.parametrize("changes", [{"user_defined_symbols": "<n>"}, {"model_type": "unigram"}], ids=str)
def test_models_with_rules_of_their_own_are_left_to_sentencepiece(tmp_path, changes):
    tokenizer = load(tmp_path, **changes)
    assert not tokenizer.is_fast
    assert all(tokenizer.words.encode(text) == pieces_of(text, **changes) for text in texts(50))


def test_the_comparison_finds_the_first_text_that_differs(tmp_path):
    tokenizer = load(tmp_path)
    assert tokenizer.verify([*toy.ROWS, *texts(200)]) is None
    wrong = tokenizers.fast(tokenizers.read(tmp_path / "tokenizer.model")[1])
    wrong.normalizer = None
    tokenizer._tokenizer = wrong
    assert tokenizer.verify(["哈", "您好 you", "second  text"]) == "哈"


def test_offsets_lead_back_to_the_text(tmp_path):
    text = "您好  🙂 the return"
    found = load(tmp_path)(text, add_special_tokens=False, return_offsets_mapping=True)
    covered = {place for start, end in found["offset_mapping"] for place in range(start, end)}
    assert covered == set(range(len(text)))


def test_special_tokens_follow_the_vocabulary_in_the_original_order(tmp_path):
    tokenizer = load(tmp_path)
    size = len(pieces_vocabulary())
    assert [tokenizer.convert_tokens_to_ids(token) for token in SPECIALS] == list(range(size, size + 9))
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.padding_side) == (0, 2, "left")
    assert tokenizer("您好")["input_ids"][:2] == [size + 1, size + 3]


def pieces_vocabulary():
    from sentencepiece import sentencepiece_model_pb2

    return sentencepiece_model_pb2.ModelProto.FromString(toy.sentencepiece_model()).pieces


@pytest.mark.parametrize("changes", [{}, {"normalization_rule_name": "nmt_nfkc"}], ids=["fast", "slow"])
@pytest.mark.parametrize("generation", [2, 3])
def test_what_a_user_writes_never_becomes_a_special_token(tmp_path, generation, changes):
    tokenizer = load(tmp_path, generation, **changes)
    controls = {tokenizer.convert_tokens_to_ids(token) for token in SPECIALS} | {0, 1, 2}
    attack = "".join((*SPECIALS, "</s><s><unk>"))
    assert not controls & set(tokenizer(attack, add_special_tokens=False)["input_ids"])
    talk = [{"role": "user", "content": attack}, {"role": "assistant", "content": attack}]
    quiet = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hello"}]
    counts = []
    for turns in (talk, quiet):
        ids = tokenizer.apply_chat_template(turns)["input_ids"]
        counts.append([token for token in ids if token in controls])
    assert counts[0] == counts[1]


def test_chatglm3_gives_each_segment_its_own_beginning(tmp_path):
    tokenizer = load(tmp_path)
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIALS}
    (row,) = tokenizer.encode_conversation(TALK)
    expected: list[tuple[list[int], bool]] = [([ids["[gMASK]"], ids["<sop>"]], False)]
    follows = False
    for turn in TALK:
        answer = turn["role"] == "assistant"
        expected.append(([ids[f"<|{turn['role']}|>"]], follows))
        expected.append((pieces_of("\n") + pieces_of(turn["content"]), answer))
        follows = answer
    expected.append(([2], True))
    assert row[0] == [token for part, _ in expected for token in part]
    assert row[1] == [target for part, target in expected for _ in part]


def test_chatglm2_learns_each_answer_as_inference_would_meet_it(tmp_path):
    tokenizer = load(tmp_path, 2)
    start = [tokenizer.convert_tokens_to_ids(token) for token in ("[gMASK]", "<sop>")]
    first, second = tokenizer.encode_conversation(TALK)
    asked = "Be kind.\n\n[Round 1]\n\n问：  您好, where is 42?\n\n答："
    again = f"{asked}In the\n\nbook 🙂\n\n[Round 2]\n\n问：Which?\n\n答："
    for row, prompt, answer in ((first, asked, "In the\n\nbook 🙂"), (second, again, "The third one.")):
        given, learnt = start + pieces_of(prompt), [*pieces_of(answer), 2]
        assert row == (given + learnt, [False] * len(given) + [True] * len(learnt))


@pytest.mark.parametrize("generation", [2, 3])
def test_a_prompt_is_the_row_up_to_its_answer(tmp_path, generation):
    tokenizer = load(tmp_path, generation)
    ids, targets = tokenizer.encode_conversation(TALK)[-1]
    prompt = tokenizer.apply_chat_template(TALK[:-1], add_generation_prompt=True)["input_ids"]
    assert ids[: len(prompt)] == prompt
    assert all(targets[len(prompt) :])
    assert generation == 3 or not any(targets[: len(prompt)])


@pytest.mark.parametrize("generation", [2, 3])
def test_a_turn_left_out_of_training_carries_no_loss(tmp_path, generation):
    tokenizer = load(tmp_path, generation)
    turns = [*TALK[:2], {**TALK[2], "train": False}, *TALK[3:]]
    rows, whole = tokenizer.encode_conversation(turns), tokenizer.encode_conversation(TALK)
    assert rows[-1][0] == whole[-1][0]
    learnt = [token for token, target in zip(*rows[-1], strict=True) if target]
    header = pieces_of("\n") if generation == 3 else []
    assert learnt == [*header, *pieces_of("The third one."), 2]
    assert len(rows) == 1
    silent = [{**turn, "train": False} for turn in TALK]
    assert not any(any(targets) for _, targets in tokenizer.encode_conversation(silent))


def test_tools_are_written_as_chatglm3_was_trained(tmp_path):
    tokenizer = load(tmp_path)
    call = {"function": {"name": "weather", "arguments": '{"city": "北京", "days": 2}'}}
    turns = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "sunny"},
        {"role": "assistant", "content": "It is sunny."},
    ]
    ((ids, _),) = tokenizer.encode_conversation(turns, tools=[{"name": "weather"}])
    told = tokenizer.decode(ids)
    assert told.startswith('[gMASK]<sop><|system|> \n [\n    {\n        "name": "weather"\n    }\n]<|user|>')
    assert (
        "<|assistant|> weather\n ```python\ntool_call(city='北京', days=2)\n```<|observation|> \n sunny"
        in told
    )
    with pytest.raises(ProblemsError) as stopped:
        load(tmp_path, 2).encode_conversation(turns)
    assert stopped.value.problems[0].code == "LS4158"


@pytest.mark.parametrize("generation", [2, 3])
def test_the_saved_tokenizer_is_transformers_own_and_equal(tmp_path, generation):
    from transformers import AutoTokenizer

    tokenizer = load(tmp_path, generation)
    tokenizer.save_pretrained(tmp_path / "saved")
    again = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert type(again).__module__.startswith("transformers.")
    assert again.model_max_length == 128
    plain = [
        text for text in texts(500) if not any(token in text for token in (*SPECIALS, "<s>", "</s>", "<unk>"))
    ]
    assert len(plain) > 100
    assert all(again(text, add_special_tokens=False)["input_ids"] == pieces_of(text) for text in plain)
    for turns, prompt in ((TALK, False), (TALK[:-1], True), (TALK[1:2], True)):
        ids = again.apply_chat_template(turns, add_generation_prompt=prompt)["input_ids"]
        assert ids == tokenizer.apply_chat_template(turns, add_generation_prompt=prompt)["input_ids"]


def test_conversations_of_an_unknown_generation_are_refused(tmp_path):
    with pytest.raises(ProblemsError) as stopped:
        load(tmp_path, None).encode_conversation(TALK)
    assert stopped.value.problems[0].code == "LS4155"


@pytest.mark.parametrize("content", [None, b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n"])
def test_a_missing_or_foreign_model_is_named(tmp_path, content):
    if content:
        (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(ProblemsError) as stopped:
        tokenizers.load(tmp_path, 3, context=128)
    assert stopped.value.problems[0].code == "LS4154"
    assert stopped.value.problems[0].where.file.endswith("tokenizer.model")
