"""Keys and passwords stay out of everything that is written or said."""

from __future__ import annotations

import netrc
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
_IN_ADDRESS = re.compile(r"(?<=://)[^/\s@]+(?=@)")
_SHORTEST = 6
"""Shorter values of such variables (``1``, ``true``) are no secrets and may stand in any text."""
_FORMS = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|sk-[\w-]{16,}|gh[opsur]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|AKIA[0-9A-Z]{16}"
    r"|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]+|xox[abp]-[\w-]{10,})"
)
"""Tokens that are known by how they begin, whoever's they are."""
_BEARER = re.compile(r"(?i)(?<=\bbearer )[\w.~+/=-]{8,}")
_NAMED = re.compile(
    r"(?i)([\w-]*(?:api[_-]?key|passw(?:or)?d|secret|access[_-]?token|auth[_-]?token|hf[_-]?token)"
    r"[\"']?\s*[:= ]\s*[\"']?)([^\s\"',&}]{4,})"
)
HUB_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN", "MODELSCOPE_API_TOKEN")
"""What downloads need, and nothing after them."""
MASK = "***"


def without_secrets(text: str) -> str:
    """``text`` with what variables such as ``WANDB_API_KEY`` and the user's own token files hold, what looks
    like a token, and user and password of addresses, replaced by asterisks."""
    for value in sorted(set(_known()), key=len, reverse=True):
        text = text.replace(value, MASK)
    text = _FORMS.sub(MASK, text)
    text = _BEARER.sub(MASK, text)
    return _IN_ADDRESS.sub(MASK, text)


def without_named_secrets(text: str) -> str:
    """The same, and the value behind every ``password:``, ``api_key=`` and the like, for texts that leave
    this computer: there a word too many is better than one too few."""
    return _NAMED.sub(rf"\1{MASK}", without_secrets(text))


def without_hub_tokens(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment for what has nothing to download."""
    return {name: value for name, value in environment.items() if name not in HUB_TOKENS}


def drop_hub_tokens() -> None:
    """Takes the hubs' tokens out of this process's own environment, for good."""
    for name in HUB_TOKENS:
        os.environ.pop(name, None)


def _known() -> Iterator[str]:
    """Secrets of this user that can be known: of the environment, of token files, of ``~/.netrc``."""
    found = [value for name, value in os.environ.items() if _SECRET_NAME.search(name)]
    for path in _token_files():
        with suppress(OSError, ValueError):
            found.append(path.read_text("utf-8").strip())
    with suppress(OSError, ValueError, netrc.NetrcParseError, RuntimeError):
        found += [password or "" for _, _, password in netrc.netrc(Path.home() / ".netrc").hosts.values()]
    return (value for value in found if len(value) >= _SHORTEST)


def _token_files() -> list[Path]:
    with suppress(RuntimeError):  # no home
        named = os.environ.get("HF_TOKEN_PATH")
        home = os.environ.get("HF_HOME") or str(Path.home() / ".cache" / "huggingface")
        return [Path(named) if named else Path(home).expanduser() / "token"]
    return []
