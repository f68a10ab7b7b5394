"""What is done to a caption before it is learnt, and what is worth saying about it."""

from __future__ import annotations

import re
import unicodedata

_MARKER = re.compile(r"<(?:lora|lyco|lycoris|hypernet):[^<>]*>", re.IGNORECASE)
_WORD = "A-Za-z0-9_"


def clean(caption: str) -> str:
    """``caption`` in NFC with every run of blanks and line ends as one blank; words are left alone."""
    return " ".join(unicodedata.normalize("NFC", caption).split())


def is_empty(caption: str) -> bool:
    """Whether nothing but blanks and separators is there."""
    return not caption.strip(" \t\r\n,，、;；.。|")


def has_marker(caption: str) -> bool:
    """Whether ``caption`` holds ``<lora:NAME:WEIGHT>``, which WebUIs read as a command."""
    return _MARKER.search(caption) is not None


def contains(caption: str, trigger: str) -> bool:
    """Whether ``trigger`` stands in ``caption``, whatever its case, and not as a part of a Latin word."""
    pattern = re.escape(trigger)
    if trigger[0].isascii():
        pattern = rf"(?<![{_WORD}])" + pattern
    if trigger[-1].isascii():
        pattern += rf"(?![{_WORD}])"
    return re.search(pattern, caption, re.IGNORECASE) is not None


def with_trigger(caption: str, trigger: str | None) -> str:
    """``caption`` with the trigger word in front, unless it is there already."""
    trigger = clean(trigger or "")
    if not trigger:
        return caption
    if is_empty(caption):
        return trigger
    return caption if contains(caption, trigger) else f"{trigger}, {caption}"
