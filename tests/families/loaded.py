"""Bases that several tests look at, loaded once: each test gets modules of its own that share the weights."""

from __future__ import annotations

import atexit
import importlib
import shutil
import tempfile
from dataclasses import replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from lora_scripts.families._components import shared_copy
from lora_scripts.families._source import find, resolve


@cache
def written(family: str, form: str = "folder") -> Path | None:
    """The family's small base as a ``folder`` or ``single`` file, to be read alone; None without one."""
    write = getattr(importlib.import_module(f"tests.bases.{family}"), form, None)
    if write is None:
        return None
    place = Path(tempfile.mkdtemp(prefix="lora-scripts-base-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    made: Path = write(place / (family if form == "folder" else f"{family}.safetensors"))
    return made


@lru_cache(maxsize=4)
def _kept(path: Path, options: tuple[tuple[str, Any], ...], changed: int) -> Any:
    source = resolve(str(path))
    family: Any = find("auto", source)
    return family.load(source, **{name: dict(v) if isinstance(v, tuple) else v for name, v in options})


def load(path: Path | str, **options: Any) -> Any:
    """A picture family's model of the base at ``path``, free to be adapted and taken apart."""
    place = Path(path)
    told = {name: tuple(sorted(v.items())) if isinstance(v, dict) else v for name, v in options.items()}
    files = [place, *place.rglob("*")]
    return bare(_kept(place, tuple(sorted(told.items())), max(file.stat().st_mtime_ns for file in files)))


def bare(model: Any) -> Any:
    """The same loaded base without what was put on it."""
    parameters = [each for module in model.modules.values() for each in module.parameters()]
    assert not any(each.requires_grad for each in parameters), "a loaded base is frozen; a copy always is"
    return replace(
        model, modules={name: shared_copy(module) for name, module in model.modules.items()}, hashes={}
    )
