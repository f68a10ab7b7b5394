"""LoRA files put onto a base through Diffusers' own loader, any number of them, none without effect."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_scripts.core.catalogue import say
from lora_scripts.core.paths import ADAPTER_CONFIG
from lora_scripts.core.problems import Location, Problem, ProblemsError
from lora_scripts.families._header import read_header
from lora_scripts.families._lora_names import load_lora
from lora_scripts.families._signatures import signature, title

from .text_clients import is_text_adapter


@dataclass(frozen=True)
class LoraChoice:
    """A file and how strongly it acts, as ``<lora:NAME:strength>`` does in a WebUI."""

    path: Path
    strength: float = 1.0


def parse_choice(text: str) -> LoraChoice:
    """``FILE`` or ``FILE:0.8``; a Windows drive's colon is no strength. ProblemsError LS4040 without the
    file, LS4045 for a text LoRA's folder."""
    head, colon, tail = text.rpartition(":")
    path, strength = Path(text).expanduser(), 1.0
    if colon and not path.is_file():
        with suppress(ValueError):
            path, strength = Path(head).expanduser(), float(tail)
    if (path / ADAPTER_CONFIG).is_file():
        raise ProblemsError(Problem("LS4045", {"path": str(path)}, Location(str(path))))
    if not path.is_file():
        raise ProblemsError(Problem("LS4040", {"path": str(path)}, Location(str(path))))
    return LoraChoice(path, strength)


def _applied(pipe: Any, name: str) -> int:
    modules = [part for part in pipe.components.values() if hasattr(part, "named_modules")]
    return sum(name in getattr(layer, "lora_A", {}) for part in modules for layer in part.modules())


def put_on(
    pipe: Any, choices: Sequence[LoraChoice], load: Callable[[Any, Path, str], None] = load_lora
) -> list[int]:
    """Loads every file onto ``pipe`` by the family's ``load_lora``; how many layers each one reached.

    Raises ProblemsError: LS4003 to LS4005 an unreadable file, LS4042 not a LoRA, LS4045 a text LoRA,
    LS4041 no layer took it.
    """
    counts: list[int] = []
    for number, choice in enumerate(choices):
        header = read_header(choice.path)
        where = Location(str(choice.path))
        kind = signature(header.shapes)
        if kind != "lora":
            params = {"path": str(choice.path), "kind": title(kind) or say("model.kind.unknown")}
            raise ProblemsError(Problem("LS4042", params, where))
        if is_text_adapter(header):
            raise ProblemsError(Problem("LS4045", {"path": str(choice.path)}, where))
        name, reason = f"lora{number}", ""
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Already found a `peft_config`")
                load(pipe, choice.path, name)
        except (ValueError, KeyError, RuntimeError, AttributeError) as error:
            reason = (str(error) or type(error).__name__).strip().splitlines()[0][:160]
        applied = 0 if reason else _applied(pipe, name)
        if not applied:
            params = {"path": str(choice.path), "reason": reason or say("generate.none_applied")}
            raise ProblemsError(Problem("LS4041", params, where))
        counts.append(applied)
    return counts


def set_strengths(pipe: Any, choices: Sequence[LoraChoice], factor: float = 1.0) -> None:
    """Every LoRA at its own strength times ``factor``; 0 gives exactly the base's pictures."""
    if choices:
        names = [f"lora{number}" for number in range(len(choices))]
        pipe.set_adapters(names, [choice.strength * factor for choice in choices])
