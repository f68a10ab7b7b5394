"""S3: no program that comes with a model runs: not its classes, not its tokenizer's, not what its chat
template tries. There is no switch that would allow it."""

from __future__ import annotations

import pytest

from lora_scripts.core.problems import ProblemsError
from lora_scripts.families._chat import Chat
from tests.families.chat_cases import WHERE, user
from tests.security.endless import must_end
from tests.texts.small import chat_tokenizer

TWICE = "{% set ns = namespace(s=START) %}{% for i in range(60) %}{% set ns.s = NEXT %}{% endfor %}"


def doubling(start: str, following: str, shown: str = "{{ ns.s }}") -> str:
    return TWICE.replace("START", start).replace("NEXT", following) + shown


WITHOUT_END = {
    "loops in loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "a macro that calls itself twice": (
        "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(100) }}"
    ),
    "a huge range": "{{ range(10000000000) }}",
    "a text times a number": "{{ 'x' * 10000000000 }}",
    "a list times a number": "{{ ([1] * 10000000000)|length }}",
    "a power": "{{ 10 ** 10 ** 10 }}",
    "a width as a filter": "{{ 'x'|center(10000000000) }}",
    "a width as a method": "{{ 'x'.ljust(10000000000) }}",
    "a width in a format": "{{ '{:10000000000}'.format('x') }}",
    "a width in an old format": "{{ '%10000000000d' % 1 }}",
    "a width in a filter's format": "{{ '%10000000000d'|format(1) }}",
    "a text that doubles": doubling("'xx'", "ns.s ~ ns.s"),
    "a text that is added to itself": doubling("'xx'", "ns.s + ns.s"),
    "a list that holds itself twice": doubling("[1]", "[ns.s, ns.s]"),
    "the same as JSON": doubling("[1]", "[ns.s, ns.s]", "{{ ns.s|tojson }}"),
    "a text put into every letter": "{% set a = 'a' * 9999 %}{{ a.replace('a', a) }}",
    "a text joined to itself": "{% set a = ['x' * 999999] * 9999 %}{{ a|join }}",
    "a text that is written again and again": (
        "{% set a = 'x' * 3000000 %}"
        "{% set b %}{% for i in range(99999) %}{{ a }}{% endfor %}{% endset %}{{ b }}"
    ),
    "lorem ipsum": "{{ lipsum(n=10000000000) }}",
}


def marked(trick: str):
    """Two of them take seconds to be found out."""
    return pytest.mark.long if trick in ("loops in loops", "a macro that calls itself twice") else ()


def template_file(folder, text: str) -> str:
    path = folder / "template.jinja"
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("trick", [pytest.param(name, marks=marked(name)) for name in WITHOUT_END])
def test_s03_a_template_without_end_is_refused(trick, tmp_path):
    with must_end(), pytest.raises(ProblemsError) as error:
        Chat(chat_tokenizer(), template_file(tmp_path, WITHOUT_END[trick]))
    (problem,) = error.value.problems
    assert problem.code == "LS1033"
    assert "too much" in problem.params["reason"]


def test_s03_one_that_goes_mad_for_some_rows_only_is_refused_there(tmp_path):
    text = "{% if messages[0].content == 'go' %}{{ 'x' * 10000000000 }}{% endif %}{{ messages[0].content }}"
    chat = Chat(chat_tokenizer(), template_file(tmp_path, text))
    assert chat.render([user("stay")], where=WHERE) == "stay"
    with pytest.raises(ProblemsError) as error:
        chat.render([user("go")], where=WHERE)
    assert error.value.problems[0].code == "LS2203"
    assert chat.render([user("stay")], where=WHERE) == "stay"


@pytest.mark.parametrize(
    "text",
    [
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{% extends 'x' %}",
        "{% from 'x' import y %}",
    ],
)
def test_s03_a_template_stands_alone(text, tmp_path):
    with pytest.raises(ProblemsError) as error:
        Chat(chat_tokenizer(), template_file(tmp_path, text))
    assert error.value.problems[0].code == "LS1033"


def test_s03_bounds_change_nothing_of_what_templates_say():
    """Every built-in template, and what templates use, with and without bounds."""
    from transformers.utils import chat_template_utils as theirs

    from lora_scripts.families._chat_templates import BUILT_IN
    from lora_scripts.families._template_bounds import Bounded, bound_templates

    everything = (
        "{%- for m in messages if m.content %}{{ loop.index ~ ': ' ~ m.role|upper }}"
        " {{ m.content|trim|tojson }}"
        "{% generation %}{{ '%s-%d' % ('a', 7) }}{{ '{} {}'.format(m.role, 2) }}{% endgeneration %}"
        "{%- if loop.last %}{% break %}{% endif %}{% endfor %}{{ '-' * 20 }}{{ [1, 2] + [3] }}"
        "{{ {'k': [1, true, none]}|tojson(indent=2) }}{{ messages|map(attribute='role')|join(', ') }}"
        "{{ 'a-b-c'.replace('-', '+') }}{{ namespace(x=1).x + 2 ** 3 }}"
        "{{ undefined_thing }}{{ range(3)|list }}"
    )
    turns = [{"role": "user", "content": " Guten Tag "}, {"role": "assistant", "content": "你好"}]

    def rendered(text: str):
        return theirs.render_jinja_template(
            conversations=[turns], chat_template=text, eos_token="</s>", bos_token="<s>",
            return_assistant_tokens_mask="generation" in text,
        )  # fmt: skip

    from jinja2.sandbox import ImmutableSandboxedEnvironment

    texts = [*BUILT_IN.values(), everything]
    bound_templates()
    bounded = [rendered(text) for text in texts]
    theirs.ImmutableSandboxedEnvironment = ImmutableSandboxedEnvironment
    theirs._compile_jinja_template.cache_clear()
    try:
        assert [rendered(text) for text in texts] == bounded
    finally:
        bound_templates()
    assert theirs.ImmutableSandboxedEnvironment is Bounded
