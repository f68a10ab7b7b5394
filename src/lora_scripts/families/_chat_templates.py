"""Chat templates of our own writing, for bases that have none: small Jinja texts, by name.

What begins a text (the tokenizer's own BOS) is put in front by ``built_in``, where the tokenizer adds one.
"""

from __future__ import annotations

CHATML = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{% endif %}
    {{- 'These functions can be called:\\n' }}
    {%- for tool in tools %}{{- tool | tojson + '\\n' }}{% endfor %}
    {{- 'A call is a JSON object with name and arguments between <tool_call> and </tool_call>.' }}
    {{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if not (tools and loop.first and message.role == 'system') %}
        {{- '<|im_start|>' + message.role + '\\n' }}
        {%- if message.reasoning_content %}
            {{- '<think>\\n' + message.reasoning_content + '\\n</think>\\n\\n' }}
        {%- endif %}
        {{- message.content or '' }}
        {%- for call in message.tool_calls or [] %}
            {%- if message.content or not loop.first %}{{- '\\n' }}{% endif %}
            {%- set asked = {'name': call.function.name, 'arguments': call.function.arguments} %}
            {{- '<tool_call>\\n' + asked | tojson + '\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}
"""
LLAMA2 = """\
{%- set ns = namespace(system='') %}
{%- for message in messages %}
    {%- if message.role == 'system' %}
        {%- set ns.system = '<<SYS>>\\n' + message.content + '\\n<</SYS>>\\n\\n' %}
    {%- elif message.role == 'user' %}
        {{- (bos_token or '') + '[INST] ' + ns.system + message.content + ' [/INST]' }}
        {%- set ns.system = '' %}
    {%- elif message.role == 'assistant' %}
        {{- ' ' + message.content + ' ' + (eos_token or '') }}
    {%- else %}
        {{- raise_exception('this template knows system, user and assistant, not ' + message.role) }}
    {%- endif %}
{%- endfor %}
"""
LLAMA3 = """\
{%- for message in messages %}
    {{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' + message.content + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}
"""
GEMMA = """\
{%- set ns = namespace(system='') %}
{%- for message in messages %}
    {%- if message.role == 'system' %}
        {%- set ns.system = message.content + '\\n\\n' %}
    {%- else %}
        {%- set role = 'model' if message.role == 'assistant' else message.role %}
        {{- '<start_of_turn>' + role + '\\n' + ns.system + message.content + '<end_of_turn>\\n' }}
        {%- set ns.system = '' %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<start_of_turn>model\\n' }}{% endif %}
"""
ALPACA = """\
{%- for message in messages %}
    {%- if message.role == 'system' %}
        {{- message.content + '\\n\\n' }}
    {%- elif message.role == 'user' %}
        {{- '### Instruction:\\n' + message.content + '\\n\\n' }}
    {%- elif message.role == 'assistant' %}
        {{- '### Response:\\n' + message.content + (eos_token or '') + '\\n\\n' }}
    {%- else %}
        {{- raise_exception('this template knows system, user and assistant, not ' + message.role) }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '### Response:\\n' }}{% endif %}
"""
VICUNA = """\
{%- for message in messages %}
    {%- if message.role == 'system' %}
        {{- message.content + '\\n\\n' }}
    {%- elif message.role == 'user' %}
        {{- 'USER: ' + message.content + ' ' }}
    {%- elif message.role == 'assistant' %}
        {{- 'ASSISTANT: ' + message.content + (eos_token or '') }}
    {%- else %}
        {{- raise_exception('this template knows system, user and assistant, not ' + message.role) }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- 'ASSISTANT:' }}{% endif %}
"""
CHATGLM2 = """\
{%- set ns = namespace(round=0) %}
{%- for message in messages %}
    {%- if message.role == 'system' %}
        {{- message.content + '\\n\\n' }}
    {%- elif message.role == 'user' %}
        {%- set ns.round = ns.round + 1 %}
        {{- '[Round ' + ns.round | string + ']\\n\\n问：' + message.content + '\\n\\n答：' }}
    {%- elif message.role == 'assistant' %}
        {{- message.content + '\\n\\n' }}
    {%- else %}
        {{- raise_exception('this template knows system, user and assistant, not ' + message.role) }}
    {%- endif %}
{%- endfor %}
"""
PLAIN = """\
{%- for message in messages %}
    {{- message.content }}
    {%- if message.role == 'assistant' %}{{- eos_token or '' }}{% endif %}
{%- endfor %}
"""
BUILT_IN = {
    "alpaca": ALPACA,
    "chatglm2": CHATGLM2,
    "chatml": CHATML,
    "gemma": GEMMA,
    "llama2": LLAMA2,
    "llama3": LLAMA3,
    "plain": PLAIN,
    "vicuna": VICUNA,
}
OWN_START = frozenset({"llama2"})
"""Those that write BOS themselves, in front of every exchange."""
CONTROL = {
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "gemma": ("<start_of_turn>", "<end_of_turn>"),
    "llama3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
}
"""Tokens that a template is written with: a base without them spells them out in pieces."""


def built_in(name: str, *, bos: bool) -> str:
    """The template called ``name``; with ``bos`` it begins with the tokenizer's BOS. KeyError for others."""
    start = "{{- bos_token }}\n" if bos and name not in OWN_START else ""
    return start + BUILT_IN[name]


def advised(words: set[str], bos: str | None) -> str:
    """The template that suits a base whose vocabulary holds ``words``, those of ``CONTROL`` among them."""
    for name, tokens in CONTROL.items():
        if words.issuperset(tokens):
            return name
    return "llama2" if bos == "<s>" else "alpaca"
