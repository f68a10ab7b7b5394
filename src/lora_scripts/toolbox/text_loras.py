"""Text LoRAs on one loaded base: found by name or folder, switched and combined while it stays loaded."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from lora_scripts.adapters.combine import Mixture
from lora_scripts.core.problems import Location, Problem, ProblemsError
from lora_scripts.export.peft_layers import CONFIG, WEIGHTS, PeftFolder, read_peft
from lora_scripts.families._base import TextFamily, TextModel
from lora_scripts.families._header import read_header
from lora_scripts.families._signatures import signature
from lora_scripts.families._source import Source, find, resolve

from .drawing import device_and_dtype
from .text_clients import is_text_adapter

TEMPLATE = "chat_template.jinja"
TRAINED_WITH = "lora_scripts_config"
"""Where the configuration stands in the header of weights that were trained here."""


@dataclass(frozen=True)
class Voice:
    """One adapter at hand, and what it was trained with, None where it does not say: the chat ``template``,
    the ``system`` prompt, and whether an answer without reasoning was told that there is none to come
    (``thinking``: the config's ``keep``)."""

    name: str
    path: Path
    template: str | None
    system: str | None
    thinking: str | None


class Voices:
    """A base and the adapters that were named so far; ``active`` speak, each with its strength."""

    def __init__(self, model: TextModel) -> None:
        self.model = model
        self.mixture = Mixture(model)
        self.known: dict[str, Voice] = {}
        self.active: dict[str, float] = {}

    def speak(self, texts: Sequence[str]) -> None:
        """From now on the adapters ``NAME`` or ``NAME:0.5`` speak, together; with none the bare base. A
        folder that is not known yet is loaded, the base never again.

        Raises ProblemsError, and nothing has changed then: LS4353 no such adapter, and as ``load``.
        """
        chosen: dict[str, float] = {}
        for text in texts:
            name, strength = self._choice(text)
            chosen[name] = chosen.get(name, 0.0) + strength
        self.use(chosen)

    def use(self, strengths: Mapping[str, float]) -> None:
        """From now on these adapters at hand speak, each with its strength."""
        self.mixture.use(strengths)
        self.active = {name: strength for name, strength in strengths.items() if strength}

    def load(self, path: Path, adapter: PeftFolder | None = None) -> str:
        """Puts the adapter of a folder at hand, silent, and returns its name: the folder's.

        Raises ProblemsError: LS4350 a picture LoRA, LS4300 to LS4302 no usable adapter, LS4027 and LS4028 one
        of another base.
        """
        found = adapter or read_text_lora(path)
        where = found.path.resolve()
        for voice in self.known.values():
            if voice.path == where:
                return voice.name
        name = where.name or str(where)
        number = 2
        while name in self.known:
            name = f"{where.name}-{number}"
            number += 1
        self.mixture.add(name, found)
        self.known[name] = Voice(name, where, _template(where), *_trained_with(found))
        return name

    def _choice(self, text: str) -> tuple[str, float]:
        if text in self.known:
            return text, 1.0
        head, strength = with_strength(text)
        if head in self.known:
            return head, strength
        path = Path(text).expanduser()
        if not path.exists():
            path = Path(head).expanduser()
        else:
            strength = 1.0
        if not path.exists():
            known = ", ".join(self.known) or "-"
            raise ProblemsError(Problem("LS4353", {"text": text, "known": known}))
        return self.load(path), strength

    @property
    def speaking(self) -> list[Voice]:
        return [self.known[name] for name in self.active]

    @property
    def template(self) -> str | None:
        """The first speaking adapter's chat template; None for the base's own."""
        return next((voice.template for voice in self.speaking if voice.template), None)

    @property
    def system(self) -> str | None:
        """The system prompt that the first speaking adapter was trained with."""
        return next((voice.system for voice in self.speaking if voice.system), None)

    @property
    def thinking(self) -> bool:
        """Whether to let the model think: not where an adapter was trained to answer at once. Rows with
        reasoning leave no mark in an adapter: whoever trained on them asks for it."""
        return not any(voice.thinking == "keep" for voice in self.speaking)


def with_strength(text: str) -> tuple[str, float]:
    """``NAME:0.5`` as its two parts; a colon that no number follows belongs to the name."""
    head, colon, tail = text.rpartition(":")
    if colon and head:
        with suppress(ValueError):
            strength = float(tail)
            if math.isfinite(strength):
                return head, strength
    return text, 1.0


def read_text_lora(path: Path) -> PeftFolder:
    """Reads a PEFT adapter from its folder or weights.

    Raises ProblemsError: LS4350 a LoRA for pictures, LS4300 to LS4302 no usable adapter.
    """
    folder = path if path.is_dir() else path.parent
    whole = (folder / WEIGHTS).is_file() and (folder / CONFIG).is_file()
    for file in sorted(path.glob("*.safetensors")) if path.is_dir() else [path]:
        if whole or file.suffix != ".safetensors":
            continue
        header = read_header(file)
        if signature(header.shapes) == "lora" and not is_text_adapter(header):
            raise ProblemsError(Problem("LS4350", {"path": str(path)}, Location(str(file))))
    return read_peft(path)


def _template(folder: Path) -> str | None:
    """The chat template that lies beside an adapter, in the file of today or of older libraries."""
    with suppress(OSError, ValueError):
        return (folder / TEMPLATE).read_text("utf-8")
    with suppress(OSError, ValueError, AttributeError):
        found = json.loads((folder / "tokenizer_config.json").read_text("utf-8")).get("chat_template")
        return found if isinstance(found, str) else None
    return None


def _trained_with(adapter: PeftFolder) -> tuple[str | None, str | None]:
    """System prompt and ``thinking`` of the configuration in the header, if it was trained here."""
    if TRAINED_WITH not in adapter.header.metadata:
        return None, None
    with suppress(ValueError, AttributeError):
        told = json.loads(adapter.header.metadata[TRAINED_WITH])
        system = told.get("system")
        return system if isinstance(system, str) else None, str(told.get("thinking", "keep"))
    return None, None


def base_of(base: str | None, adapters: Sequence[PeftFolder]) -> Source:
    """The base to talk to: as asked, else what the first adapter that says so was trained on.

    Raises ProblemsError: LS4351 nobody says, and those of ``families._source.resolve``.
    """
    named = base or next((adapter.base for adapter in adapters if adapter.base), None)
    if not named:
        raise ProblemsError(Problem("LS4351"))
    return resolve(named)


def open_voices(base: str | None, loras: Sequence[str]) -> Voices:
    """Loads the base and lets the LoRAs (``FOLDER`` or ``FOLDER:0.5``) speak together.

    Everything that can be wrong with them is said before the base is loaded, but whether they fit it. Raises
    ProblemsError: LS4351, LS4352 a base that is no language model, and as ``Voices.speak``.
    """
    read: list[tuple[PeftFolder, float]] = []
    for text in loras:
        head, strength = with_strength(text)
        path = Path(text).expanduser()
        path, strength = (path, 1.0) if path.exists() else (Path(head).expanduser(), strength)
        read.append((read_text_lora(path), strength))
    source = base_of(base, [adapter for adapter, _ in read])
    family = find("auto", source)
    if family.sheet.task != "text-generation":
        told = {"path": source.name, "title": family.sheet.named()}
        raise ProblemsError(Problem("LS4352", told, Location(str(source.path))))
    device, dtype = device_and_dtype()
    voices = Voices(cast(TextFamily, family).load(source, device=device, dtype=dtype, packing=False))
    chosen: dict[str, float] = {}
    for adapter, strength in read:
        name = voices.load(adapter.path, adapter)
        chosen[name] = chosen.get(name, 0.0) + strength
    voices.use(chosen)
    return voices
