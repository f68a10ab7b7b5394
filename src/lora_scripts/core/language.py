"""Which language to speak. Standard library only, and readable by Python 3.8: the doors need it."""

from __future__ import annotations

import locale
import os

LANGUAGES = ("en", "zh")

_language: str | None = None


def language() -> str:
    """The language in use: what ``use_language`` said, else ``LORA_SCRIPTS_LANG``, else the locale's."""
    if _language is not None:
        return _language
    for name in ("LORA_SCRIPTS_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        value = os.environ.get(name)
        if value:
            return "zh" if value.lower().startswith("zh") else "en"
    system = locale.getlocale()[0] or ""
    return "zh" if system.lower().startswith(("zh", "chinese")) else "en"


def use_language(name: str | None) -> None:
    """Speaks ``name`` from now on; None goes back to what the environment says."""
    global _language
    _language = name
