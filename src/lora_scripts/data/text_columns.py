"""Which column of a data set holds what: by the names that data sets use, in English and Chinese."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..core.lookup import did_you_mean
from .row_faults import RowFault
from .text_files import listing, printable

ROLES = (
    "messages", "prompt", "completion", "input", "system", "text", "chosen", "rejected", "tools", "history",
)  # fmt: skip
"""What ``columns:`` may assign."""
NAMES: Mapping[str, tuple[str, ...]] = {
    "messages": ("messages", "conversations", "conversation", "消息", "对话"),
    "instruction": ("instruction", "指令"),
    "prompt": ("prompt", "提示", "提示词"),
    "question": ("question", "query", "问题", "问", "提问", "問題"),
    "input": ("input", "context", "输入", "上下文", "輸入"),
    "completion": (
        "completion", "response", "output", "answer", "回答", "答", "答案", "输出", "回复", "补全",
        "答复", "回应", "输出结果", "輸出", "答覆", "回覆", "回應",
    ),
    "system": ("system", "system_prompt", "系统", "系统提示"),
    "history": ("history", "历史"),
    "text": ("text", "content", "文本", "正文", "内容"),
    "chosen": ("chosen",),
    "rejected": ("rejected",),
    "tools": ("tools", "工具"),
}  # fmt: skip
KNOWN = frozenset(name for names in NAMES.values() for name in names)
LABELS = ("label", "kto_tag")
_ASKING = {"instruction": "alpaca", "prompt": "prompt_completion", "question": "question_answer"}
"""Column that asks -> the form it stands for, in the order in which they are looked for."""


@dataclass(frozen=True)
class Layout:
    """``form``: ``messages`` (also ShareGPT's, which only its turns show), ``alpaca``, ``prompt_completion``,
    ``question_answer``, ``text`` or ``preference``. ``columns``: role -> the column's own name.
    ``asked_by``: what kind of column the prompt is, ``instruction``, ``prompt`` or ``question``."""

    form: str
    columns: Mapping[str, str]
    asked_by: str | None = None


def layout_of(keys: Sequence[str], overrides: Mapping[str, str]) -> Layout:
    """What rows with these keys are. ``overrides``: role -> column, the user's own word.

    A layout may lack a column that its form needs. Raises RowFault: LS2114 a column that was named is not
    there, LS2117 one is there twice, LS2112 one is probably misspelled, LS2116 one that is needed may have a
    name of its own, LS2111 none is known.
    """
    check_names(keys, overrides)
    found = _named(keys, overrides)
    asking = next((role for role in _ASKING if role in found), None)
    form = _form(found, overrides, asking)
    columns = {role: key for role, key in found.items() if role not in _ASKING}
    if asking:
        columns["prompt"] = found[asking]
    elif form == "alpaca" and "input" in columns:
        columns["prompt"] = columns.pop("input")
    missing = _missing(form, columns)
    if missing:
        _look_for_misspelled(keys, found, missing)
    if form is None:
        raise RowFault("LS2111", keys=listing(list(keys), 12) or "{}")
    others = [key for key in keys if key.strip() and key not in found.values()]
    if missing and others:
        role = "prompt" if missing[-1] in _ASKING else missing[-1]
        raise RowFault("LS2116", role=role, column=printable(others[-1]), keys=listing(list(keys), 12))
    return Layout(form, columns, asking)


def check_names(keys: Sequence[str], overrides: Mapping[str, str]) -> None:
    """Raises RowFault LS2117 where one of two columns of the same name would be read and the other lost."""
    taken = set(overrides.values())
    seen: set[tuple[bool, str]] = set()
    for key in keys:
        mark = (True, key) if key in taken else (False, key.strip().lower())
        if mark in seen and (mark[0] or mark[1] in KNOWN):
            raise RowFault("LS2117", column=printable(key), keys=listing(list(keys), 12))
        seen.add(mark)


def _named(keys: Sequence[str], overrides: Mapping[str, str]) -> dict[str, str]:
    for role, column in overrides.items():
        if column not in keys:
            near = did_you_mean(column, keys) or next(iter(keys), "")
            raise RowFault(
                "LS2114",
                role=role,
                column=printable(column),
                keys=listing(list(keys), 12),
                near=printable(near),
            )
    taken = set(overrides.values())
    lowered: dict[str, str] = {}
    for key in keys:
        if key not in taken:
            lowered.setdefault(key.strip().lower(), key)
    found = dict(overrides)
    for role, names in NAMES.items():
        name = next((name for name in names if name in lowered), None)
        if name is not None and role not in found:
            found[role] = lowered[name]
    if "prompt" in overrides:
        found = {role: key for role, key in found.items() if role not in ("instruction", "question")}
    return found


def _form(found: Mapping[str, str], overrides: Mapping[str, str], asking: str | None) -> str | None:
    for role, form in (("messages", "messages"), ("text", "text")):
        if role in overrides and "chosen" not in found:
            return form
    if "chosen" in found or "rejected" in found:
        return "preference"
    if "prompt" in overrides or "completion" in overrides:
        return "prompt_completion"
    if "messages" in found:
        return "messages"
    if asking:
        return _ASKING[asking]
    if "completion" in found:
        return "alpaca"
    return "text" if "text" in found else None


def _missing(form: str | None, columns: Mapping[str, str]) -> tuple[str, ...]:
    if form is None:
        return tuple(NAMES)
    if form == "preference":
        return tuple(role for role in ("chosen", "rejected") if role not in columns)
    if form in ("messages", "text"):
        return ()
    wanted = () if "prompt" in columns else tuple(_ASKING)
    return wanted if "completion" in columns else (*wanted, "completion")


def role_called(name: str) -> str | None:
    """What a column of this name holds, as ``columns:`` calls it."""
    role = next((role for role, names in NAMES.items() if name.strip().lower() in names), None)
    return "prompt" if role in _ASKING else role


def _look_for_misspelled(keys: Sequence[str], found: Mapping[str, str], missing: Sequence[str]) -> None:
    wanted = [name for role in missing for name in NAMES[role]]
    for key in keys:
        if key in found.values() or len(key) < 3:
            continue
        near = did_you_mean(key.strip(), wanted, cutoff=75.0)
        if near:
            raise RowFault("LS2112", key=printable(key), near=near, keys=listing(list(keys), 12))
