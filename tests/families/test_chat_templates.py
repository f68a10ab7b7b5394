"""Chat templates: which one is used, what it may do, and what it does without being asked."""

from __future__ import annotations

import pytest

from lora_scripts.core.catalogue import render
from lora_scripts.core.problems import ProblemsError
from lora_scripts.families._chat import Chat, advice, template_of
from lora_scripts.families._chat_templates import BUILT_IN, advised
from tests.families.chat_cases import (
    CALL,
    FORCED_THINKING,
    THINKING,
    TOOLS,
    WHERE,
    as_messages,
    bot,
    user,
)
from tests.texts.small import chat_tokenizer, plain_tokenizer


def template_file(folder, text: str) -> str:
    path = folder / "template.jinja"
    path.write_text(text, encoding="utf-8")
    return str(path)


def code_of(error) -> str:
    return error.value.problems[0].code


@pytest.mark.parametrize(
    "text",
    [
        "{{ ''.__class__ }}",
        "{{ messages.__class__.__mro__ }}",
        "{{ cycler.__init__.__globals__.os.popen('touch ' ~ marker).read() }}",
        "{{ raise_exception.__globals__ }}",
        "{{ self.__init__.__globals__ }}",
        "{{ (messages | attr('__class__')).mro() }}",
        "{{ lipsum.__globals__['os'].system('touch ' ~ marker) }}",
        "{{ ('{0.__class__.__init__.__globals__}').format(raise_exception) }}",
    ],
)
def test_a_template_cannot_leave_the_sandbox(text, tmp_path):
    marker = tmp_path / "ran"
    text = f"{{% set marker = '{marker}' %}}" + text
    with pytest.raises(ProblemsError) as error:
        Chat(chat_tokenizer(), template_file(tmp_path, text))
    assert code_of(error) == "LS1033"
    assert not marker.exists()


def test_a_template_that_breaks_out_for_some_rows_only_is_refused_there(tmp_path):
    hidden = "{{ (''|attr('_' ~ '_class_' ~ '_')).x }}"
    text = "{% if messages[0].content == 'go' %}" + hidden + "{% endif %}{{ messages[0].content }}"
    chat = Chat(chat_tokenizer(), template_file(tmp_path, text))
    assert chat.render([user("stay")], where=WHERE) == "stay"
    with pytest.raises(ProblemsError) as error:
        chat.render([user("go")], where=WHERE)
    assert code_of(error) == "LS2203"
    assert error.value.problems[0].where == WHERE


@pytest.mark.parametrize("text", ["{% for m in messages %}", "{{ messages[ }}", "{% nonsense %}"])
def test_a_template_that_is_no_jinja_is_refused_as_a_whole(text, tmp_path):
    with pytest.raises(ProblemsError) as error:
        Chat(chat_tokenizer(), template_file(tmp_path, text))
    assert code_of(error) == "LS1033"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{{ raise_exception('Only tea is served here') }}", "Only tea is served here"),
        ("{{ settings.name.first }}", "settings"),
        ("{{ 1 / 0 }}", "division"),
        ("{{ messages[0].content + 1 }}", "str"),
        ("{{ messages | sum }}", "unsupported"),
    ],
)
def test_what_a_template_raises_names_the_row_and_the_reason(text, words, tmp_path):
    chat = Chat(chat_tokenizer(), template_file(tmp_path, text))
    with pytest.raises(ProblemsError) as error:
        chat.render([user("Hi")], where=WHERE)
    problem = error.value.problems[0]
    assert problem.code == "LS2203"
    assert words in str(problem.params["reason"])
    assert "rows.jsonl:7" in render(problem)


def test_text_of_a_row_is_never_run_as_a_template():
    chat = Chat(chat_tokenizer())
    assert "{{ 7 * 7 }}" in chat.render([user("{{ 7 * 7 }}"), bot("{% raw %}")], where=WHERE)


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("make", [chat_tokenizer, plain_tokenizer])
def test_a_built_in_template_begins_with_its_own_prompt(name, make):
    chat = Chat(make(), name)
    turns = [user("Where is it?"), bot("In the north."), user("And now?"), bot("In the south.")]
    for count in (2, 4):
        prompt = chat.render(turns[: count - 1], prompt=True)
        full = chat.render(turns[:count])
        assert full.startswith(prompt)
        assert turns[count - 1].content in full[len(prompt) :]
        assert all(turn.content in prompt for turn in turns[: count - 1])
    assert chat.render(turns).count(turns[0].content) == 1


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_template_writes_the_system_prompt(name):
    from lora_scripts.data.chat import Turn

    turns = [Turn("system", "Be brief, keeper."), user("Where?"), bot("North.")]
    assert "Be brief, keeper." in Chat(plain_tokenizer(), name).render(turns)


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_template_begins_with_bos_where_the_tokenizer_does(name):
    turns = [user("Where?"), bot("North.")]
    assert Chat(plain_tokenizer(), name).render(turns).startswith("<s>")
    assert Chat(plain_tokenizer(), name).render(turns).count("<s>") == 1
    assert not Chat(chat_tokenizer(), name).render(turns).startswith("<s>")


def test_the_name_of_a_template_may_be_misspelt_once(tmp_path):
    with pytest.raises(ProblemsError) as error:
        template_of(chat_tokenizer(), "chat-ml")
    problem = error.value.problems[0]
    assert problem.code == "LS1032"
    assert problem.params["near"] == "chatml"
    assert template_of(chat_tokenizer(), template_file(tmp_path, "\ufeffhello")) == "hello"


def test_a_base_without_a_template_is_told_which_one_suits_it():
    assert not Chat(plain_tokenizer())
    assert advice(chat_tokenizer()) == "chatml"
    assert advice(plain_tokenizer()) == "llama2"
    assert advised(set(), "<bos>") == "alpaca"
    assert advised({"<start_of_turn>", "<end_of_turn>"}, "<bos>") == "gemma"


def test_the_template_for_tools_is_taken_where_a_base_has_several():
    tokenizer = chat_tokenizer()
    tokenizer.chat_template = {"default": "plain", "tool_use": "{{ tools[0].function.name }}"}
    chat = Chat(tokenizer)
    assert chat.render([user("Hi")]) == "plain"
    assert chat.render([user("Hi")], TOOLS) == "weather"


def test_a_prompt_is_what_transformers_would_send():
    tokenizer = chat_tokenizer()
    turns = [user("Hi"), bot("Hello"), user("And?")]
    expected = tokenizer.apply_chat_template(as_messages(turns), tokenize=False, add_generation_prompt=True)
    assert Chat(tokenizer).render(turns, prompt=True) == expected


def test_the_system_prompt_that_a_template_adds_by_itself_is_found():
    assert Chat(chat_tokenizer()).default_system == "You are a helpful assistant."
    assert Chat(chat_tokenizer(), "chatml").default_system == ""
    assert Chat(plain_tokenizer(), "gemma").default_system == ""


def test_where_an_empty_think_block_stands_is_found(tmp_path):
    assert Chat(chat_tokenizer()).empty_think == "none"
    assert Chat(chat_tokenizer(), template_file(tmp_path, THINKING)).empty_think == "prompt"
    only_written = THINKING.replace("enable_thinking is defined and not enable_thinking", "false")
    assert Chat(chat_tokenizer(), template_file(tmp_path, only_written)).empty_think == "answer"
    assert Chat(chat_tokenizer(), template_file(tmp_path, FORCED_THINKING)).empty_think == "none"


def test_reasoning_has_a_place_of_its_own_or_goes_into_the_answer(tmp_path):
    turns = [user("2+2?"), bot("4", reasoning="two and two")]
    own = Chat(chat_tokenizer(), template_file(tmp_path, THINKING)).render(turns)
    assert own.count("two and two") == 1
    inline = Chat(chat_tokenizer()).render(turns)
    assert "<think>\ntwo and two\n</think>\n\n4" in inline


def test_tools_reach_the_template_and_their_arguments_are_objects():
    chat = Chat(chat_tokenizer(), "chatml")
    asked = dict(CALL, function={"name": "weather", "arguments": '{"city": "北京"}'})
    for call in (CALL, asked):
        text = chat.render([user("?"), bot("", tool_calls=(call,))], TOOLS)
        assert '{"name": "weather", "arguments": {"city": "北京"}}' in text
        assert '"description": "of a city"' in text
    assert chat.shows_tools
    assert not Chat(chat_tokenizer()).shows_tools


def test_a_date_is_the_same_every_day(tmp_path):
    llama = "{% if not date_string is defined %}{% set date_string = strftime_now('%d') %}{% endif %}"
    chat = Chat(chat_tokenizer(), template_file(tmp_path, llama + "{{ date_string }}"))
    assert chat.render([user("Hi")]) == "26 Jul 2024"
    assert not chat.dated
    assert Chat(chat_tokenizer(), template_file(tmp_path, "{{ strftime_now('%d') }}")).dated
