"""Answers: what Transformers itself would say, whatever is asked beside, and nothing else is touched."""

from pathlib import Path

import pytest
import torch

from lora_scripts.adapters.attach import attach, set_training
from lora_scripts.adapters.spec import AdapterSpec
from lora_scripts.core.problems import ProblemsError
from lora_scripts.toolbox import talk
from lora_scripts.toolbox.talk import generate_texts, stream_text, text_pieces, whole_text
from lora_scripts.toolbox.turns import end_of_turn, prompt_ids, stop_ids, turns_of
from tests.texts import loras, small

PROMPTS = [
    "Where is my parcel?",
    "您好，请问这款水壶的保修期是多久？",
    "Please send us a photo of the broken handle, and tell us when the shop opens on Saturday.",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small.write_model(tmp_path_factory.mktemp("talk") / "llama", "llama")


@pytest.fixture(scope="module")
def model(folder):
    return loras.load(folder, packing=True)


@pytest.fixture
def ending(model):
    """Lets the base name one more token that ends its turn, for one test."""
    own = model.predictor.generation_config.eos_token_id

    def name(token):
        model.predictor.generation_config.eos_token_id = [own, token]

    yield name
    model.predictor.generation_config.eos_token_id = own


def test_an_answer_is_what_transformers_itself_says(folder, model):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for prompt in PROMPTS:
        asked = tokenizer.apply_chat_template(
            [{"role": "system", "content": "Be kind."}, {"role": "user", "content": prompt}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        whole = plain.generate(**asked, max_new_tokens=24, do_sample=False)[0]
        said = tokenizer.decode(whole[asked["input_ids"].shape[1] :], skip_special_tokens=True)
        (answer,) = generate_texts(model, [prompt], system="Be kind.", max_new_tokens=24)
        assert answer == said.rstrip("\ufffd").strip()


@pytest.mark.parametrize("kind", ["llama", "qwen3", "mistral", "gemma2", "glm4"])
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_asked_together_and_alone_the_answers_are_the_same(tmp_path, kind, temperature):
    model = loras.load(small.write_model(tmp_path / kind, kind), packing=True)
    settings = {"max_new_tokens": 16, "temperature": temperature, "seed": 5}
    together = generate_texts(model, PROMPTS, **settings)
    assert together == [generate_texts(model, [prompt], **settings)[0] for prompt in PROMPTS]
    assert kind == "gemma2" or len(set(together)) == len(PROMPTS)


def test_more_prompts_than_are_answered_at_once_keep_their_order(model, monkeypatch):
    alone = generate_texts(model, PROMPTS, max_new_tokens=6)
    monkeypatch.setattr(talk, "BATCH", 2)
    assert generate_texts(model, PROMPTS, max_new_tokens=6) == alone


def test_an_answer_ends_where_the_base_says_so(model, ending):
    row = prompt_ids(model.tokenizer, turns_of(PROMPTS[0], None))
    whole = model.predictor.generate(
        input_ids=torch.tensor([row]), attention_mask=torch.ones(1, len(row)).long(), max_new_tokens=20
    )[0, len(row) :].tolist()
    token = whole[8]
    ending(token)
    (answer,) = generate_texts(model, [PROMPTS[0]], max_new_tokens=20)
    expected = whole_text(model.tokenizer, whole[: whole.index(token)]).strip()
    assert answer == expected
    assert "".join(stream_text(model, PROMPTS[0], max_new_tokens=20)).strip() == expected


def test_the_token_behind_an_answer_ends_it_whatever_the_tokenizer_calls_its_end():
    tokenizer = small.chat_tokenizer()
    tokenizer.eos_token = "<|endoftext|>"
    assert tokenizer.decode([end_of_turn(tokenizer)]) == "<|im_end|>"
    assert end_of_turn(small.plain_tokenizer()) is None
    words = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }} over.\n{% endfor %}"
    assert end_of_turn(tokenizer, words) is None


def test_a_real_template_ends_its_turns():
    import os

    from transformers import AutoTokenizer

    root = Path(os.environ.get("LORA_SCRIPTS_ASSETS", Path(__file__).parents[3] / "assets"))
    folder = root / "tokenizers" / "qwen3"
    if not folder.is_dir():
        pytest.skip(f"no tokenizer in {folder}")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.eos_token = "<|endoftext|>"
    assert tokenizer.convert_ids_to_tokens(end_of_turn(tokenizer)) == "<|im_end|>"


def state_of(model):
    module = model.predictor
    return {
        "random": torch.get_rng_state().tolist(),
        "modes": [part.training for part in module.modules()],
        "needed": [parameter.requires_grad for parameter in module.parameters()],
        "weights": [float(parameter.detach().double().sum()) for parameter in module.parameters()],
        "grads": [parameter.grad is None for parameter in module.parameters()],
        "cache": module.config.use_cache,
        "attention": module.config._attn_implementation,
        "generation": module.generation_config.to_dict(),
    }


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_model_in_training_is_left_as_it_was(folder, temperature):
    model = loras.load(folder, packing=True)
    adapter = attach(model, AdapterSpec(4, 4.0, dropout=0.5), seed=3)
    loras.strengthen(adapter)
    expected = generate_texts(model, PROMPTS, max_new_tokens=8, temperature=temperature)
    model.family.set_gradient_checkpointing(model, True)
    set_training(model, adapter, True)
    model.predictor.lm_head.eval()
    before, own = state_of(model), model.predictor.generation_config
    assert generate_texts(model, PROMPTS, max_new_tokens=8, temperature=temperature) == expected
    assert (
        "".join(stream_text(model, PROMPTS[0], max_new_tokens=8, temperature=temperature)).strip()
        == expected[0]
    )
    assert state_of(model) == before
    assert model.predictor.generation_config is own
    assert not model.predictor.lm_head.training


def test_a_failure_leaves_the_model_as_it_was_too(model, monkeypatch):
    before = state_of(model)

    def fail(**given):
        raise RuntimeError("the card is gone")

    monkeypatch.setattr(model.predictor, "generate", fail)
    with pytest.raises(RuntimeError, match="the card is gone"):
        generate_texts(model, PROMPTS)
    with pytest.raises(RuntimeError, match="the card is gone"):
        list(stream_text(model, PROMPTS[0]))
    assert state_of(model) == before


def test_equal_seeds_give_equal_answers_and_others_vary(model):
    def ask(seed):
        return generate_texts(model, PROMPTS[:1] * 2, temperature=1.0, seed=seed, max_new_tokens=12)

    torch.manual_seed(1)
    first = ask(7)
    torch.manual_seed(2)
    assert ask(7) == first
    assert first[0] == first[1]
    assert ask(8) != first


def test_tokens_are_drawn_with_their_probabilities():
    chances = torch.tensor([[0.5, 0.3, 0.15, 0.05]])
    for temperature, keep, share, expected in (
        (1.0, 0, 1.0, [0.5, 0.3, 0.15, 0.05]),
        (0.5, 0, 1.0, [0.25 / 0.365, 0.09 / 0.365, 0.0225 / 0.365, 0.0025 / 0.365]),
        (1.0, 2, 1.0, [0.625, 0.375, 0, 0]),
        (1.0, 0, 0.7, [0.625, 0.375, 0, 0]),
    ):
        draws = talk._Draws(temperature, [11], keep, share)
        drawn = [int(draws(torch.zeros(1, 1), chances.log()).argmax()) for _ in range(2000)]
        shares = torch.bincount(torch.tensor(drawn), minlength=4) / 2000
        torch.testing.assert_close(shares, torch.tensor(expected), atol=0.03, rtol=0)


def test_a_streamed_answer_comes_in_whole_characters():
    tokenizer = small.chat_tokenizer()
    text = "🙂 café 您好，Größe🙂"
    ids = tokenizer(text)["input_ids"]
    assert any("\ufffd" in tokenizer.decode([token]) for token in ids)
    pieces = list(text_pieces(ids, lambda some: whole_text(tokenizer, some)))
    assert "".join(pieces) == text
    assert len(pieces) > 5
    assert not any("\ufffd" in piece for piece in pieces)
    assert "".join(text_pieces(ids[:1], lambda some: whole_text(tokenizer, some))) == ""


def test_streaming_keeps_the_spaces_of_tokenizers_that_hide_them():
    tokenizer = small.plain_tokenizer()
    text = "The parcel left the warehouse this morning"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert "".join(text_pieces(ids, lambda some: whole_text(tokenizer, some))) == text


def test_a_stopped_answer_stops(model):
    stream = stream_text(model, PROMPTS[0], max_new_tokens=150)
    pieces = iter(stream)
    next(pieces)
    stream.stop()
    assert stream.written.done()
    assert len(list(pieces)) < 140
    assert generate_texts(model, PROMPTS[:1], max_new_tokens=4)


def test_an_answer_fits_in_what_is_left_of_the_context(model, monkeypatch):
    generate, lengths = model.predictor.generate, []

    def measured(**given):
        found = generate(**given)
        lengths.append(found.shape[1])
        return found

    monkeypatch.setattr(model.predictor, "generate", measured)
    tight = "a b c d e f g h i j " * 12
    rows = [prompt_ids(model.tokenizer, turns_of(text, None)) for text in (tight, "?")]
    left = model.description.context - len(rows[0])
    assert 0 < left < 40
    settings = {"max_new_tokens": 60}
    together = generate_texts(model, [tight, "?"], **settings)
    assert together == [generate_texts(model, [text], **settings)[0] for text in (tight, "?")]
    assert max(lengths) == model.description.context
    with pytest.raises(ProblemsError) as error:
        generate_texts(model, ["a b c d e f g h i j " * 40])
    assert error.value.problems[0].code == "LS4354"


def test_a_base_without_a_template_goes_on_with_the_text(tmp_path):
    tokenizer = small.plain_tokenizer()
    model = loras.load(small.write_model(tmp_path / "plain", "llama", tokenizer=tokenizer))
    ids = prompt_ids(model.tokenizer, turns_of("The parcel", None))
    assert ids == [tokenizer.bos_token_id, *tokenizer("The parcel", add_special_tokens=False)["input_ids"]]
    assert len(generate_texts(model, ["The parcel", ""], max_new_tokens=5)) == 2


WITHOUT_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}<|im_start|>{{ m['content'] }}{% endfor %}"
)


def test_a_template_without_a_system_prompt_gets_it_in_the_first_question():
    tokenizer = small.chat_tokenizer()
    turns = turns_of("Hello", "Be kind.")
    assert tokenizer.decode(prompt_ids(tokenizer, turns, WITHOUT_SYSTEM)) == "<|im_start|>Be kind.\n\nHello"
    with pytest.raises(ProblemsError) as error:
        prompt_ids(tokenizer, [turns[1], turns[1]], WITHOUT_SYSTEM)
    assert error.value.problems[0].code == "LS4357"
    assert "roles must alternate" in error.value.problems[0].params["reason"]


def test_a_template_that_knows_it_is_told_whether_to_think():
    tokenizer, turns = small.chat_tokenizer(), turns_of("Hello", None)
    switch = small.CHATML + "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
    asked = [tokenizer.decode(prompt_ids(tokenizer, turns, switch, thinking)) for thinking in (True, False)]
    assert asked[1] == asked[0] + "<think>\n\n</think>\n\n"
    assert prompt_ids(tokenizer, turns, thinking=False) == prompt_ids(tokenizer, turns)


def test_another_template_than_the_bases_is_asked_through(model):
    other = "{% for m in messages %}{{ m['content'] }}<|endoftext|>{% endfor %}"
    assert generate_texts(model, PROMPTS[:1], template=other) != generate_texts(model, PROMPTS[:1])
    end = model.tokenizer.convert_tokens_to_ids("<|endoftext|>")
    assert end in stop_ids(model, other)
    assert end not in stop_ids(model)
