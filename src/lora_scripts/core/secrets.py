"""Keys and passwords stay out of everything that is written or said."""

from __future__ import annotations

import os
import re

_SECRET_NAME = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
_IN_ADDRESS = re.compile(r"(?<=://)[^/\s@]+(?=@)")
_SHORTEST = 6
"""Shorter values of such variables (``1``, ``true``) are no secrets and may stand in any text."""


def without_secrets(text: str) -> str:
    """``text`` with what variables such as ``WANDB_API_KEY`` hold, and user and password of addresses,
    replaced by asterisks."""
    for name, value in os.environ.items():
        if _SECRET_NAME.search(name) and len(value) >= _SHORTEST:
            text = text.replace(value, "***")
    return _IN_ADDRESS.sub("***", text)
