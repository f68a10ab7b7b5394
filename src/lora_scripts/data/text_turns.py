"""A list of messages as turns: OpenAI's ``role``/``content`` and ShareGPT's ``from``/``value``, in order."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..core.lookup import did_you_mean
from .chat import Role, Turn
from .row_faults import RowFault
from .text_files import printable

CALL = "function_call"
"""ShareGPT's role of an assistant's turn that is nothing but a tool call."""
_ROLES: Mapping[str, Role] = {
    "system": "system", "developer": "system", "系统": "system",
    "user": "user", "human": "user", "用户": "user", "人类": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant",
    "bot": "assistant", "助手": "assistant", CALL: "assistant",
    "tool": "tool", "observation": "tool", "function": "tool", "function_response": "tool", "工具": "tool",
}  # fmt: skip
_THOUGHT = re.compile(r"\s*<think>(?:(?!</think>).)*</think>\s*", re.DOTALL)
_REASONING = ("reasoning_content", "reasoning", "thinking")


def kind_of(value: object) -> str:
    """JSON's name of a value's type."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list | tuple) else "object"


def is_sharegpt(turn: object) -> bool:
    return isinstance(turn, Mapping) and "from" in turn and "role" not in turn


def is_empty_answer(text: str) -> bool:
    """Whether nothing is said in an answer, or nothing behind its reasoning."""
    return not text.strip() or _THOUGHT.fullmatch(text) is not None


def from_json(value: Any) -> Any:
    """A cell of a table or a key of a row that holds a list or an object as JSON text, else as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value, strict=False)
        except (ValueError, RecursionError):
            return value
    return value


def turns_of(value: Any, field: str) -> tuple[Turn, ...]:
    """The turns of a list of messages; a single message stands for a list of one.

    Raises RowFault: LS2128 no list, LS2143 empty, LS2144 no message, LS2133 and LS2134 an unknown role,
    LS2140 and LS2150 content that is no text, LS2146 a tool call that cannot be read, LS2131 and LS2132
    empty texts.
    """
    value = from_json(value)
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list | tuple):
        raise RowFault("LS2140", field=field, kind=kind_of(value), wanted="array")
    turns: list[Turn] = []
    for index, message in enumerate(value):
        place = f"{field}[{index}]"
        turn, called = _turn(message, place, index + 1)
        if turn.role == "system" and not turn.content.strip():
            continue
        if called and turns and turns[-1].role == "assistant":
            before = turns.pop()
            turn = Turn(
                "assistant",
                before.content,
                before.train and turn.train,
                before.reasoning,
                before.tool_calls + turn.tool_calls,
            )
        turns.append(turn)
    if not turns:
        raise RowFault("LS2143", field=field)
    return tuple(turns)


def _turn(message: Any, place: str, number: int) -> tuple[Turn, bool]:
    """A turn, and whether it is a tool call that may belong to the turn before."""
    if not isinstance(message, Mapping):
        raise RowFault("LS2140", field=place, kind=kind_of(message), wanted="object")
    role_key, content_key = ("from", "value") if is_sharegpt(message) else ("role", "content")
    name = message.get(role_key)
    if name is None:
        raise RowFault("LS2144", field=f"{place}.{role_key}", turn=number)
    role = _role(name, f"{place}.{role_key}", number)
    calls = (
        _tool_calls(message.get("tool_calls"), f"{place}.tool_calls", number) if role == "assistant" else ()
    )
    is_call = isinstance(name, str) and name.strip().lower() == CALL
    content_place = f"{place}.{content_key}"
    content = _content(message.get(content_key), content_place)
    if content is None and content_key not in message and not calls:
        raise RowFault("LS2144", field=content_place, turn=number)
    if is_call:
        calls, content = _tool_calls(from_json(content), content_place, number), ""
    if role == "assistant" and not calls and is_empty_answer(content or ""):
        raise RowFault("LS2131", field=content_place)
    if role == "user" and not (content or "").strip():
        raise RowFault("LS2132", field=content_place)
    reasoning = next((message[key] for key in _REASONING if message.get(key) is not None), None)
    if reasoning is not None and not isinstance(reasoning, str):
        raise RowFault("LS2140", field=f"{place}.reasoning", kind=kind_of(reasoning), wanted="string")
    train = _is_trained(message, place)
    return Turn(
        role, content or "", train, reasoning or None if role == "assistant" else None, calls
    ), is_call


def _role(name: Any, field: str, number: int) -> Role:
    if not isinstance(name, str):
        raise RowFault("LS2140", field=field, kind=kind_of(name), wanted="string")
    role = _ROLES.get(name.strip().lower())
    if role is None:
        near = did_you_mean(name, _ROLES)
        if near:
            raise RowFault("LS2134", turn=number, role=printable(name), near=near)
        raise RowFault("LS2133", turn=number, role=printable(name))
    return role


def _content(value: Any, field: str) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, list | tuple):
        raise RowFault("LS2140", field=field, kind=kind_of(value), wanted="string")
    parts = []
    for part in value:
        if isinstance(part, str):
            parts.append(part)
        elif isinstance(part, Mapping) and isinstance(part.get("text"), str):
            parts.append(part["text"])
        else:
            kind = part.get("type") if isinstance(part, Mapping) else kind_of(part)
            kind = kind_of(part.get("text")) if kind == "text" else kind
            raise RowFault("LS2150", field=field, kind=printable(str(kind)))
    return "".join(parts)


def _is_trained(message: Mapping[str, Any], place: str) -> bool:
    train, weight = message.get("train"), message.get("weight")
    if train is not None and not isinstance(train, bool):
        raise RowFault("LS2140", field=f"{place}.train", kind=kind_of(train), wanted="boolean")
    if weight is not None and (isinstance(weight, bool) or not isinstance(weight, int | float)):
        raise RowFault("LS2140", field=f"{place}.weight", kind=kind_of(weight), wanted="number")
    return train is not False and weight != 0


def _tool_calls(value: Any, field: str, number: int) -> tuple[Mapping[str, Any], ...]:
    value = from_json(value)
    if value is None:
        return ()
    calls = []
    for call in (
        [value] if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else [None]
    ):
        call = call if isinstance(call, Mapping) else {}
        function = call.get("function", call)
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise RowFault("LS2146", field=field, turn=number)
        arguments = from_json(function.get("arguments"))
        if arguments is None or arguments == "":
            arguments = {}
        if not isinstance(arguments, Mapping):
            raise RowFault("LS2146", field=field, turn=number)
        named = {"name": function["name"], "arguments": arguments}
        identity = {"id": call["id"]} if call.get("id") is not None else {}
        calls.append({**identity, "type": "function", "function": named})
    return tuple(calls)


def tools_of(value: Any, field: str) -> tuple[Mapping[str, Any], ...]:
    """Descriptions of tools as chat templates expect them. Raises RowFault LS2153."""
    value = from_json(value)
    if value is None or value == "":
        return ()
    tools = []
    for tool in (
        [value] if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else [None]
    ):
        tool = from_json(tool)
        function = tool.get("function", tool) if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise RowFault("LS2153", field=field)
        tools.append(dict(tool) if "function" in tool else {"type": "function", "function": dict(tool)})
    return tuple(tools)


def check_order(turns: Sequence[Turn]) -> None:
    """Raises RowFault unless user and assistant take turns and the assistant has the last word: LS2135,
    LS2136, LS2137, LS2138, LS2139, LS2145."""
    before = "start"
    for number, turn in enumerate(turns, 1):
        if turn.role == "system" and before != "start":
            raise RowFault("LS2138", turn=number)
        if turn.role == "user" and before == "user":
            raise RowFault("LS2135", turn=number)
        if turn.role == "assistant" and before == "assistant":
            raise RowFault("LS2136", turn=number)
        if turn.role == "assistant" and before in ("start", "system"):
            raise RowFault("LS2137", turn=number)
        if turn.role == "tool" and before not in ("assistant", "tool"):
            raise RowFault("LS2145", turn=number)
        before = turn.role
    if before != "assistant":
        raise RowFault("LS2139", turn=len(turns), role=before)
