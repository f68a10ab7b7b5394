"""Why a hub did not give what it was asked for, in the user's words and without anybody's token."""

from __future__ import annotations

import errno

from .catalogue import say
from .secrets import without_secrets

BUSY, BROKEN = 429, 500


def reason(error: BaseException, *, downloading: bool = False) -> str:
    """What ``error``, raised by a hub's library, means; ``downloading``: the hub had answered before."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(status, int):
        told = _by_status(status, type(error).__name__)
        if told is not None:
            return told
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES)
    if downloading and not full:
        return say("hub.cut")
    lines = (str(error).strip() or type(error).__name__).splitlines()
    shown = without_secrets(lines[0])[:200]
    offline = isinstance(error, ConnectionError) or "Connect" in type(error).__name__
    return say("hub.offline", reason=shown) if offline else shown


def _by_status(status: int, kind: str) -> str | None:
    if kind == "GatedRepoError" or status == 403:
        return say("hub.gated", status=status)
    if status == 401:
        return say("hub.denied", status=status)
    if status == 404:
        return say("hub.absent", status=status)
    if status == BUSY:
        return say("hub.busy", status=status)
    if status >= BROKEN:
        return say("hub.broken", status=status)
    return None
