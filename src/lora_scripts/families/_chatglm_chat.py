"""How ChatGLM2 and ChatGLM3 are talked to: a conversation becomes segments, each encoded on its own.

Control tokens are put in by id and text is only ever encoded as text, so nobody can write a role token into
a message. Each segment is encoded alone and so carries its own ``▁``: that is how both models were trained.
Sources: the prompt formats published with ChatGLM2-6B and ChatGLM3-6B (PROMPT.md).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lora_scripts.core.problems import Problem, ProblemsError

SPECIALS = (
    "[MASK]",
    "[gMASK]",
    "[sMASK]",
    "<sop>",
    "<eop>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|observation|>",
)
"""In the order of their ids, which follow the SentencePiece vocabulary. The originals write ``sop`` and
``eop``; a token spelled like a word would tear ``sophisticated`` apart wherever a program looks for special
tokens in text."""
ROLES = {
    "system": "<|system|>",
    "user": "<|user|>",
    "assistant": "<|assistant|>",
    "tool": "<|observation|>",
    "observation": "<|observation|>",
}
START = ("[gMASK]", "<sop>")
Row = tuple[list[int], list[bool]]
"""Token ids, and for each whether it carries loss."""

CHATGLM3_TEMPLATE = (
    "[gMASK]<sop>"
    "{% if tools %}{% set listed = tools | tojson(indent=4) %}"
    "{% if messages[0]['role'] != 'system' %}{{ '<|system|>\n ' + listed }}{% endif %}{% endif %}"
    "{% for message in messages %}"
    "{% set token = '<|observation|>' if message['role'] in ('tool', 'observation')"
    " else '<|' + message['role'] + '|>' %}"
    "{{ token + (message['metadata'] or '') + '\n' }}"
    "{% if message['content'] %}{{ ' ' + message['content'] }}{% endif %}"
    "{% if tools and loop.first and message['role'] == 'system' %}{{ '\n' + listed }}{% endif %}"
    "{% if loop.last and message['role'] == 'assistant' %}{{ '</s>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
CHATGLM2_TEMPLATE = (
    "[gMASK]<sop>"
    "{% set ns = namespace(round=0) %}"
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] + '\n\n' }}"
    "{% elif message['role'] == 'user' %}{% set ns.round = ns.round + 1 %}"
    "{{ '[Round ' + ns.round | string + ']\n\n问：' + message['content'] + '\n\n答：' }}"
    "{% elif loop.last %}{{ ' ' + message['content'] + '</s>' }}"
    "{% else %}{{ message['content'] + '\n\n' }}{% endif %}"
    "{% endfor %}"
)
TEMPLATES = {2: CHATGLM2_TEMPLATE, 3: CHATGLM3_TEMPLATE}
"""The same formats for programs that render text: equal ids, except that they take a special token that a
message spells out for the token itself."""


@dataclass(frozen=True)
class Message:
    """One turn. ``metadata``: the name of the tool that an assistant's turn calls."""

    role: str
    content: str
    train: bool = True
    metadata: str = ""


@dataclass(frozen=True)
class Words:
    """``encode``: text -> ids of its SentencePiece pieces. ``ids``: special token -> id. ``end``: </s>."""

    encode: Callable[[str], list[int]]
    ids: Mapping[str, int]
    end: int


@dataclass
class _Row:
    ids: list[int] = field(default_factory=list)
    targets: list[bool] = field(default_factory=list)

    def add(self, ids: Iterable[int], target: bool) -> None:
        new = list(ids)
        self.ids += new
        self.targets += [target] * len(new)


def _call(call: Mapping[str, Any]) -> tuple[str, str]:
    """Name and content of a tool call, in the form of ChatGLM3: ``tool_call(city='Beijing')``."""
    function = call.get("function", call)
    given = function.get("arguments", {})
    arguments = json.loads(given or "{}") if isinstance(given, str) else given
    inner = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    return str(function["name"]), f"```python\ntool_call({inner})\n```"


def _of(turn: Any, name: str, default: Any) -> Any:
    found = turn.get(name, default) if isinstance(turn, Mapping) else getattr(turn, name, default)
    return default if found is None else found


def messages(turns: Iterable[Any]) -> list[Message]:
    """Turns of a data set (objects) or of a chat client (dictionaries with ``role`` and ``content``), a tool
    call being a message of its own. A turn's reasoning stands before its answer, in ``<think>`` marks."""
    found = []
    for turn in turns:
        role, content, train = (
            _of(turn, "role", ""),
            str(_of(turn, "content", "")),
            bool(_of(turn, "train", True)),
        )
        if reasoning := _of(turn, "reasoning", ""):
            content = f"<think>\n{reasoning}\n</think>\n\n{content}"
        calls = [_call(call) for call in _of(turn, "tool_calls", ())]
        if content or not calls:
            found.append(Message(role, content, train, str(_of(turn, "metadata", ""))))
        found += [Message(role, text, train, name) for name, text in calls]
    return found


def _with_tools(given: Sequence[Message], tools: Sequence[Any]) -> list[Message]:
    if not tools:
        return list(given)
    listed = json.dumps(list(tools), indent=4, ensure_ascii=False)
    if given and given[0].role == "system":
        first = Message("system", f"{given[0].content}\n{listed}", False)
        return [first, *given[1:]]
    return [Message("system", listed, False), *given]


def _chatglm3(words: Words, given: Sequence[Message], *, prompt: bool) -> list[Row]:
    """The token after an assistant's turn ends it: the next role's, or </s>. It carries that turn's loss."""
    row, ends = _Row(), False
    row.add((words.ids[token] for token in START), False)
    for message in given:
        row.add([words.ids[ROLES[message.role]]], ends)
        ends = message.role == "assistant" and message.train
        row.add(words.encode(f"{message.metadata}\n"), ends)
        row.add(words.encode(message.content), ends)
    if prompt:
        row.add([words.ids["<|assistant|>"]], ends)
    elif given and given[-1].role == "assistant":
        row.add([words.end], ends)
    return [(row.ids, row.targets)]


def _chatglm2(words: Words, given: Sequence[Message], *, prompt: bool) -> list[Row]:
    """Each trained answer becomes a row of its own: at inference the rounds before it are one text without
    </s>, which a row with several answers could not show."""
    start = [words.ids[token] for token in START]
    rows: list[Row] = []
    text, count = "", 0
    for place, message in enumerate(given):
        if message.role == "tool" or message.role == "observation" or message.metadata:
            raise ProblemsError(Problem("LS4158", {"what": message.metadata or message.role}))
        if message.role == "system":
            text += f"{message.content}\n\n"
        elif message.role == "user":
            count += 1
            text += f"[Round {count}]\n\n问：{message.content}\n\n答："
        else:
            last = place == len(given) - 1
            if not prompt and (message.train or (last and not rows)):
                row = _Row()
                row.add([*start, *words.encode(text)], False)
                row.add([*words.encode(message.content), words.end], message.train)
                rows.append((row.ids, row.targets))
            text += f"{message.content}\n\n"
    if prompt or not rows:
        ids = [*start, *words.encode(text)]
        return [(ids, [False] * len(ids))]
    return rows


def encode(
    generation: int, words: Words, turns: Iterable[Any], tools: Sequence[Any] = (), *, prompt: bool = False
) -> list[Row]:
    """The rows that a conversation is learnt from; with ``prompt`` one row that an answer follows.

    ``generation`` is 2 or 3. Raises ProblemsError LS4158 where ChatGLM2 is given tools, which it has no form
    for.
    """
    given = messages(turns)
    if generation == 3:
        return _chatglm3(words, _with_tools(given, tools), prompt=prompt)
    if tools:
        raise ProblemsError(Problem("LS4158", {"what": "tools"}))
    return _chatglm2(words, given, prompt=prompt)
