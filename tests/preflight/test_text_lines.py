"""Each sentence of the plan stands where it is true, and only there."""

from __future__ import annotations

import re

import pytest

from lora_scripts.core.catalogue import LANGUAGES, say, use_language
from tests.families.chat_cases import THINKING, merging_tokenizer
from tests.preflight.text_cases import ROWS, check, write
from tests.texts.small import chat_tokenizer, plain_tokenizer

TALK = {
    "messages": [
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "3+3?"},
        {"role": "assistant", "content": "6"},
    ]
}
AWKWARD = {"prompt": "Hi", "completion": "\n\nHello"}
DATED = (
    "{{ strftime_now('%Y') }}{% for m in messages %}{{ m.role ~ ':' ~ m.content ~ '<|im_end|>' }}{% endfor %}"
)
ASKS = "{% if add_generation_prompt %}assistant:{% endif %}"


def pattern(sentence: str) -> re.Pattern[str]:
    """A sentence with whatever numbers and names."""
    blanks = dict.fromkeys(("count", "names", "text", "name", "token", "rows"), "\0")
    return re.compile(re.escape(say(sentence, **blanks)).replace(re.escape("\0"), ".+"))


def thinking(only_written: bool = False):
    made = chat_tokenizer()
    switch = "enable_thinking is defined and not enable_thinking"
    made.chat_template = THINKING.replace(switch, "false") if only_written else THINKING
    return made


def dated():
    made = chat_tokenizer()
    made.chat_template = DATED + ASKS
    return made


CASES = [
    (ROWS, {}, ["chat.plan.template_own", "chat.plan.system_default"]),
    (ROWS, {"system": "Be brief."}, ["chat.plan.template_own", "chat.plan.system_given"]),
    (ROWS, {"chat_template": "chatml"}, ["chat.plan.template_asked"]),
    (ROWS, {"tokenizer": plain_tokenizer}, ["chat.plan.template_none"]),
    (ROWS, {"tokenizer": thinking}, ["chat.plan.template_own", "chat.plan.think_prompt_keep"]),
    (
        ROWS,
        {"tokenizer": thinking, "thinking": "drop"},
        ["chat.plan.template_own", "chat.plan.think_prompt_drop"],
    ),
    (
        ROWS,
        {"tokenizer": lambda: thinking(True)},
        ["chat.plan.template_own", "chat.plan.think_answer_keep"],
    ),
    (
        ROWS,
        {"tokenizer": lambda: thinking(True), "thinking": "drop"},
        ["chat.plan.template_own", "chat.plan.think_answer_drop"],
    ),
    (
        [TALK] * 3,
        {"tokenizer": thinking},
        ["chat.plan.template_own", "chat.plan.think_prompt_keep", "chat.plan.apart"],
    ),
    (ROWS, {"tokenizer": dated}, ["chat.plan.template_own", "chat.plan.dated"]),
    (
        [AWKWARD] * 3,
        {"tokenizer": lambda: merging_tokenizer(marks=True)},
        ["chat.plan.template_own", "chat.plan.system_default", "chat.plan.crossed"],
    ),
    (
        [{"prompt": "Hi", "completion": "on and on " * 90}] * 3,
        {"chat_template": "chatml"},
        ["chat.plan.template_asked", "chat.plan.cut"],
    ),
]
CONDITIONAL = sorted(
    {name for _, _, names in CASES for name in names} | {"chat.plan.documents", "chat.plan.left_out"}
)


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize(("rows", "options", "expected"), CASES)
def test_a_sentence_is_said_where_it_is_true(rows, options, expected, lang, tmp_path):
    path = tmp_path / "rows.jsonl"
    write(path, rows)
    make = options.get("tokenizer", chat_tokenizer)
    report, _ = check(path, **(options | {"tokenizer": make()}))
    use_language(lang)
    lines = report.lines()
    said = [name for name in CONDITIONAL if any(map(pattern(name).fullmatch, lines))]
    assert said == sorted(expected)
