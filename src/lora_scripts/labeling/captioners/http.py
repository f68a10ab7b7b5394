"""A model that another program serves on this machine, through the chat interface that OpenAI's made common.

llama.cpp, Ollama, vLLM, LM Studio and others speak it (``POST /v1/chat/completions``, pictures as data URLs).
Nothing leaves this machine unless ``--allow-remote`` says so. A key comes from the environment, never shown.
"""

from __future__ import annotations

import base64
import http.client
import io
import ipaddress
import json
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from lora_scripts.core.problems import Problem, ProblemsError
from lora_scripts.data.text_files import printable

from .._captioner import Asked, Captioner, Words

if TYPE_CHECKING:
    from PIL.Image import Image

TITLE = "label.captioner.http"
DEFAULT_MODEL: str | None = None
KEY = "LORA_SCRIPTS_LABEL_KEY"
INSTRUCTION = "Describe this picture in one plain sentence, without an introduction."
TIMEOUT = 180.0
"""Seconds for one answer: a large model on a processor takes its time."""
TRIES = 4
BACKOFF = 1.0
"""Seconds before the second try; doubled for each further one."""
LONGEST_WAIT = 60.0
AT_ONCE = 4
SIDE = 1024
"""Pixels on the longer side of what is sent."""
MOST_BYTES = 2**20
HOPELESS = 10
"""Pictures in a row that the server fails on until it is taken to be broken."""
_AGAIN = (408, 425, 429, 500, 502, 503, 504)
_ABOUT_THE_PICTURE = (400, 413, 415, 422)
_THOUGHT = re.compile(r"<think>.*?(?:</think>|$)", re.DOTALL)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A server on this machine must not pass pictures on to another one."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def _address(url: str, allow_remote: bool) -> tuple[str, bool]:
    """The interface's address (up to ``/v1``), and whether it is on this machine."""
    parts = urllib.parse.urlsplit(url if "//" in url else f"http://{url}")
    host = ""
    try:
        host = parts.hostname or ""
        known = parts.port is None or parts.port > 0
    except ValueError:
        known = False
    if parts.scheme not in ("http", "https") or not host or not known or parts.username is not None:
        raise ProblemsError(Problem("LS3106", {"url": printable(_without_password(url))}))
    if not (local := _is_local(host)) and not allow_remote:
        raise ProblemsError(Problem("LS3107", {"host": printable(host)}))
    path = parts.path.rstrip("/").removesuffix("/chat/completions").rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{path or '/v1'}", local


def _without_password(url: str) -> str:
    return re.sub(r"//[^/@]*@", "//", url)


def _is_local(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _Refused(Exception):  # noqa: N818 - sorted by ``_Server.describe``
    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class _Unusable(ValueError):  # noqa: N818 - sorted by ``_Server.describe``
    """An answer that holds no caption."""


class _Server:
    def __init__(self, base: str, local: bool, asked: Asked) -> None:
        self.base, self.asked = base, asked
        # A proxy of the environment has no business between two programs of one machine.
        around = [urllib.request.ProxyHandler({})] if local else []
        self._open = urllib.request.build_opener(_NoRedirects, *around).open
        self.batch_size = asked.batch_size or AT_ONCE
        self._pool = ThreadPoolExecutor(self.batch_size, thread_name_prefix="http")
        self._failed = 0
        self.model = asked.model or self._first_model()

    def _first_model(self) -> str:
        answer = self._ask("/models", None)
        try:
            return str(answer["data"][0]["id"])
        except (LookupError, TypeError) as error:
            raise ProblemsError(Problem("LS3109", {"url": self.base})) from error

    def describe(self, pictures: Sequence[Image]) -> list[Words]:
        return list(self._pool.map(self._one, pictures))

    def _one(self, picture: Image) -> Words:
        try:
            words = Words(_caption(self._ask("/chat/completions", self._question(picture))))
            self._failed = 0
            return words
        except (_Refused, _Unusable) as error:
            reason = error.reason if isinstance(error, _Refused) else str(error)
            problem = Problem("LS3115", {"url": self.base, "reason": reason})
        self._failed += 1
        if self._failed >= HOPELESS:
            raise ProblemsError(problem)
        return Words(problem=problem)

    def _question(self, picture: Image) -> dict[str, Any]:
        url = "data:image/jpeg;base64," + base64.b64encode(_jpeg(picture)).decode()
        content = [
            {"type": "text", "text": self.asked.instruction or INSTRUCTION},
            {"type": "image_url", "image_url": {"url": url}},
        ]
        return {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": self.asked.max_new_tokens,
            "temperature": 0,
            "stream": False,
        }

    def _ask(self, path: str, question: dict[str, Any] | None) -> Any:
        """The server's answer. Raises ``ProblemsError`` where it is about no picture, else ``_Refused``."""
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get(KEY):
            headers["Authorization"] = f"Bearer {key}"
        data = None if question is None else json.dumps(question).encode()
        request = urllib.request.Request(self.base + path, data=data, headers=headers)  # noqa: S310 - checked
        for number in range(TRIES):
            wait = BACKOFF * 2**number
            try:
                with self._open(request, timeout=TIMEOUT) as answer:
                    return json.loads(_read(answer, time.monotonic() + TIMEOUT))
            except urllib.error.HTTPError as error:
                reason = _said(error)
                if error.code in _ABOUT_THE_PICTURE:
                    raise _Refused(error.code, reason) from error
                if error.code not in _AGAIN:
                    raise self._stop("LS3108", reason) from error
                if number + 1 == TRIES:
                    raise _Refused(error.code, reason) from error
                wait = _asked_to_wait(error, wait)
            except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
                if number + 1 == TRIES:
                    reason = printable(str(getattr(error, "reason", error)) or type(error).__name__)
                    raise self._stop("LS3100", reason) from error
            except ValueError as error:
                raise _Unusable("no JSON") from error
            time.sleep(wait)
        raise AssertionError("the last try returns or raises")

    def _stop(self, code: str, reason: str) -> ProblemsError:
        return ProblemsError(Problem(code, {"url": self.base, "reason": reason, "key": KEY}))

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


def _read(answer: Any, end: float) -> bytes:
    """An answer of at most ``MOST_BYTES``, whole by ``end``: one that only trickles in is given up."""
    pieces, size = [], 0
    while size < MOST_BYTES and (piece := answer.read1(MOST_BYTES - size)):
        pieces.append(piece)
        size += len(piece)
        if time.monotonic() > end:
            raise TimeoutError("the answer is too slow")
    return b"".join(pieces)


def _jpeg(picture: Image) -> bytes:
    small = picture
    if max(picture.size) > SIDE:
        small = picture.copy()
        small.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def _said(error: urllib.error.HTTPError) -> str:
    """What the server says of it, without anything that was sent."""
    try:
        told = json.loads(error.read(MOST_BYTES))["error"]
        text = told["message"] if isinstance(told, dict) else told
    except (OSError, ValueError, LookupError, TypeError, http.client.HTTPException):
        text = error.reason
    key = os.environ.get(KEY)
    shown = str(text).replace(key, "***") if key else str(text)
    return printable(f"{error.code} {shown}", 160)


def _asked_to_wait(error: urllib.error.HTTPError, otherwise: float) -> float:
    try:
        return min(LONGEST_WAIT, max(0.0, float(error.headers.get("Retry-After", ""))))
    except ValueError:
        return otherwise


def _caption(answer: Any) -> str:
    """The words of an answer, without what a reasoning model thought aloud. Raises ``_Unusable``."""
    try:
        content = answer["choices"][0]["message"]["content"]
        if isinstance(content, list):
            content = " ".join(part["text"] for part in content if part.get("type") == "text")
    except (LookupError, TypeError, AttributeError) as error:
        raise _Unusable("no choices[0].message.content") from error
    return _THOUGHT.sub("", content or "").strip().strip('"“”').strip()


def load(asked: Asked) -> Captioner:
    """Raises ``ProblemsError``: LS3106 no address, LS3107 another machine without permission, LS3100, LS3108,
    LS3109 no server there, it refuses, it names no model."""
    if not asked.url:
        raise ProblemsError(Problem("LS3106", {"url": ""}))
    base, local = _address(asked.url, asked.allow_remote)
    try:
        return _Server(base, local, asked)
    except (_Refused, _Unusable) as error:
        reason = str(error)
        raise ProblemsError(Problem("LS3108", {"url": base, "reason": reason, "key": KEY})) from error
