"""Finding things by name, and saying what a wrong name was probably meant to be."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from types import ModuleType


def did_you_mean(word: str, known: Iterable[str], cutoff: float = 70.0) -> str | None:
    """The known name nearest to ``word``, or None where none is near."""
    from rapidfuzz import fuzz, process

    found = process.extractOne(word.lower(), list(known), scorer=fuzz.ratio, score_cutoff=cutoff)
    return found[0] if found else None


def plugin_names(package: ModuleType) -> list[str]:
    """Names of a package's public modules: each file without a leading underscore is one plug-in."""
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))


def plugin(package: ModuleType, name: str) -> ModuleType:
    return importlib.import_module(f"{package.__name__}.{name}")
