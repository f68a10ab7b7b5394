"""Takes out of a text what is nobody else's business: secrets, who the user is, and what he wrote."""

from __future__ import annotations

import getpass
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from lora_scripts.core.catalogue import say
from lora_scripts.core.secrets import without_named_secrets

WRITTEN = frozenset(
    {"prompts", "negative_prompt", "trigger_word", "caption_prefix", "caption_suffix", "system", "texts",
     "caption", "captions", "answers", "prompt", "text"}
)  # fmt: skip
"""Keys of configurations, events and results under which stands what the user, or the model, wrote."""
MACHINE = frozenset({"host", "hostname"})
SHORTEST = 4
"""Shorter captions are ordinary words, and replacing them would make holes in everything."""
_HOMES = re.compile(r"(?i)((?:/home|/Users|[A-Z]:(?:\\\\?|/)Users)(?:\\\\?|/))[^/\\\s\"':,]+")
_QUOTED = re.compile(r"(?<![\w'])'[^'\n]*'|“[^”\n]*”|\"[^\"\n]*\"")
_PROMPTING = re.compile(
    r"('--(?:prompt|negative|system|instruction|trigger|prepend|append|ask|template)', )'(?:[^'\\]|\\.)*'"
)
_ABOUT_DATA = "LS2"
"""Messages about data quote it."""
NOBODY = frozenset({"root", "user", "admin", "administrator", "ubuntu", "runner", "app"})
"""User names that name nobody and are words of other things."""


class Redaction:
    """``private``: what the user wrote, as far as it is known; taken out wherever it stands. ``captions``:
    what was written may stay."""

    def __init__(self, private: Iterable[str] = (), *, captions: bool = False) -> None:
        self.captions = captions
        self.removed = say("report.removed")
        kept = {text for text in private if len(text) >= SHORTEST}
        self.private = sorted(kept | {json.dumps(text)[1:-1] for text in kept}, key=len, reverse=True)

    def text(self, text: str) -> str:
        """A text without secrets, home, user name and private texts."""
        for written in self.private:
            text = text.replace(written, self.removed)
        if not self.captions:
            text = _PROMPTING.sub(rf"\1'{self.removed}'", text)
        return _anonymous(without_named_secrets(text))

    def json(self, text: str, indent: int | None = 1) -> str:
        """A JSON text with written values and the machine's name masked; what is no JSON is left out."""
        try:
            value = json.loads(text)
        except ValueError:
            return ""
        return json.dumps(self._masked(value), ensure_ascii=False, indent=indent) + "\n"

    def yaml(self, text: str) -> str:
        """The same of a configuration, comments gone."""
        from ruamel.yaml import YAML, YAMLError

        from lora_scripts.config.load import dump_yaml

        try:
            value = YAML(typ="safe", pure=True).load(text)
        except YAMLError:
            return ""
        return dump_yaml(self._masked(value)) if isinstance(value, dict) else ""

    def _masked(self, value: Any, key: str = "", code: str = "") -> Any:
        if isinstance(value, dict):
            told = str(value.get("code", ""))
            return {name: self._masked(inner, str(name), told) for name, inner in value.items()}
        if key in MACHINE and value:
            return self.removed
        if not self.captions and key in WRITTEN and value:
            if code and isinstance(value, str):  # a message of ours, not the user's words
                return _QUOTED.sub(f"'{self.removed}'", value) if code.startswith(_ABOUT_DATA) else value
            return [self.removed] * len(value) if isinstance(value, list) else self.removed
        if isinstance(value, list):
            return [self._masked(inner, key, code) for inner in value]
        return value


def _anonymous(text: str) -> str:
    with suppress(RuntimeError):
        home = Path.home()
        for form in {str(home), home.as_posix(), json.dumps(str(home))[1:-1], str(home.resolve())}:
            if len(form) > 1:
                text = re.sub(re.escape(form) + r"(?![\w.-])", "~", text)
    text = _HOMES.sub(r"\1<user>", text)
    with suppress(OSError, KeyError, ImportError):
        name = getpass.getuser()
        if len(name) > 2 and name.lower() not in NOBODY:
            text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "<user>", text)
    return text


def private_texts(run: Path) -> Iterator[str]:
    """What the user wrote that a run's folder knows of: of its configuration, its data's record, its
    previews."""
    for name in ("data.json", "result.json", "events.jsonl"):
        with suppress(OSError):
            for line in (
                (run / name).read_text("utf-8", "replace").splitlines()
                if name.endswith("l")
                else [(run / name).read_text("utf-8", "replace")]
            ):
                with suppress(ValueError):
                    yield from _written(json.loads(line))
    with suppress(OSError):
        from ruamel.yaml import YAML, YAMLError

        with suppress(YAMLError):
            yield from _written(
                YAML(typ="safe", pure=True).load((run / "config.yaml").read_text("utf-8", "replace"))
            )


def _written(value: Any, key: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        if "code" in value and "text" in value:  # a message
            return
        for name, inner in value.items():
            yield from _written(inner, str(name))
    elif isinstance(value, list):
        for inner in value:
            yield from _written(inner, key)
    elif isinstance(value, str) and key in WRITTEN:
        yield value
