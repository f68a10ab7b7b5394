"""Which language to speak, and getting it onto a console.

Standard library only, and readable by Python 3.6: the doors need it.
"""

import locale
import os
import sys

LANGUAGES = ("en", "zh")

_language = None  # type: "str | None"


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


def use_language(name: "str | None") -> None:
    """Speaks ``name`` from now on; None goes back to what the environment says."""
    global _language
    _language = name


def speak_unicode() -> None:
    """Makes every sentence printable: UTF-8 on Windows, and nowhere an error for a character that is missing.

    A Windows pipe speaks the old code page unless told otherwise; other systems' terminals are what their
    locale says, so there only the characters that it lacks are escaped.
    """
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is None:
            continue
        if os.name == "nt":
            reconfigure(encoding="utf-8", errors="backslashreplace")
        else:
            reconfigure(errors="backslashreplace")
