"""The Go template writes, turn for turn, what the tokenizer's own template writes; else there is none."""

from __future__ import annotations

import pytest

from lora_scripts.export.go_template import render
from lora_scripts.export.modelfile import chat_shape, modelfile, path_for
from tests.texts import small

SYSTEM = {"role": "system", "content": "Be brief."}
TALK = [
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": "Two."},
    {"role": "user", "content": "Three?"},
]
LLAMA3 = (
    "{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] + '<|endoftext|>\n\n' + m['content'] | trim + '<|im_end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant<|endoftext|>\n\n' }}{% endif %}"
)
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}"
    "{% for m in messages %}{% set role = 'model' if m['role'] == 'assistant' else 'user' %}"
    "{{ '<|im_start|>' + role + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>model\n' }}{% endif %}"
)
BRACKETS = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + '<|im_end|>' }}"
    "{% else %}{{ raise_exception('no system turn') }}{% endif %}{% endfor %}"
)
HEADED = (
    "{{ '<|im_start|>system\nToday: 26 Jul 2024\n\n' }}"
    "{% if messages[0]['role'] == 'system' %}"
    "{{ messages[0]['content'] }}{% set messages = messages[1:] %}{% endif %}"
    "{{ '<|im_end|>\n' }}{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
COUNTED = (
    "{% for m in messages %}"
    "{{ loop.index ~ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' }}"
    "{% endfor %}{{ '<|im_start|>assistant\n' }}"
)


def with_template(template):
    tokenizer = small.chat_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize(
    ("template", "system"),
    [(small.CHATML, True), (LLAMA3, True), (NO_SYSTEM, False), (BRACKETS, False), (HEADED, True)],
    ids=["chatml", "llama3", "no-system", "brackets", "headed"],
)
def test_it_writes_what_the_tokenizer_writes(template, system):
    tokenizer = with_template(template)
    shape = chat_shape(tokenizer)
    assert shape.template is not None
    for turns in (TALK[:1], TALK, [SYSTEM, *TALK] if system else TALK):
        wanted = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        told = turns
        if shape.default_system and turns[0]["role"] != "system":
            told = [{"role": "system", "content": shape.default_system}, *turns]
        assert render(shape.template, told) == wanted
    assert shape.stops == ("<|im_end|>",)


def test_a_default_system_prompt_is_found():
    assert chat_shape(with_template(small.CHATML)).default_system == "You are a helpful assistant."
    assert chat_shape(with_template(LLAMA3)).default_system == ""


def test_a_template_that_counts_has_no_go_template():
    assert chat_shape(with_template(COUNTED)).template is None
    assert chat_shape(with_template(None)).template is None
    assert chat_shape(small.plain_tokenizer()).stops == ("</s>",)


def test_a_bos_that_clients_add_by_themselves_is_left_to_them():
    tokenizer = small.plain_tokenizer()
    tokenizer.chat_template = "{{ bos_token }}" + BRACKETS.replace("<|im_end|>", "</s>")
    shape = chat_shape(tokenizer)
    assert shape.template is not None
    assert "<s>" not in shape.template
    assert shape.stops == ("</s>",)


def test_ends_that_the_model_itself_names_are_stops():
    tokenizer = with_template(small.CHATML)
    assert chat_shape(tokenizer, [tokenizer.pad_token_id]).stops == ("<|im_end|>", "<|endoftext|>")


def test_the_file():
    shape = chat_shape(with_template(small.CHATML))
    text = modelfile(base="./base.gguf", adapter="./a.gguf", shape=shape, note="a note")
    lines = text.splitlines()
    assert lines[0] == "# a note"
    assert lines[1:3] == ["FROM ./base.gguf", "ADAPTER ./a.gguf"]
    assert 'SYSTEM """You are a helpful assistant."""' in lines
    assert 'PARAMETER stop "<|im_end|>"' in lines
    assert 'SYSTEM """Short."""' in modelfile(base="b", adapter=None, shape=shape, system="Short.")
    assert "SYSTEM" not in modelfile(base="b", adapter=None, shape=shape, system="")


def test_a_neighbour_is_named_by_its_name(tmp_path):
    assert path_for(tmp_path / "a.gguf", tmp_path) == "./a.gguf"
    assert path_for(tmp_path / "x" / "a.gguf", tmp_path) == str((tmp_path / "x" / "a.gguf").resolve())


@pytest.mark.parametrize(
    ("template", "wanted"),
    [
        ("{{ range .Messages }}[{{ .Role }}]{{ end }}!", "[user][assistant][user]!"),
        ('{{ range .Messages }}{{ if eq .Role "user" }}U{{ else }}A{{ end }}{{ end }}', "UAU"),
        ('{{ if ne (index .Messages 0).Role "system" }}none{{ end }}', "none"),
        ('a  {{- if eq (index .Messages 0).Role "user" -}}  b  {{ end }}c', "ab  c"),
        ('{{ "{{" }}', "{{"),
        ('{{ range .Messages }}{{ if or (eq .Role "user") (eq .Role "tool") }}x{{ end }}{{ end }}', "xx"),
        (
            '{{ if eq (index .Messages 0).Role "a" }}{{ if eq .Nothing "b" }}{{ end }}{{ else }}ok{{ end }}',
            "ok",
        ),
    ],
)
def test_as_much_of_go_as_is_needed(template, wanted):
    assert render(template, TALK) == wanted


def test_what_is_not_known_of_go_is_an_error():
    with pytest.raises(ValueError, match="Suffix"):
        render("{{ .Suffix }}", TALK)
