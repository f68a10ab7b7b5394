"""A text LoRA for programs that compute the base under the names of its published files.

Some bases are trained through classes that name and split their layers otherwise than the files do. vLLM and
llama.cpp serve those files, and want a LoRA for the layers that stand there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from lora_scripts.core.files import write_atomic
from lora_scripts.core.problems import Location, Problem, ProblemsError
from lora_scripts.families._source import find, resolve

from .peft_layers import CONFIG, WEIGHTS, read_peft
from .tensors_file import write_safetensors


@dataclass(frozen=True)
class OriginalExport:
    """``layers``: adapted weights of the original. ``rank``: the LoRA's new rank; its effect is the same."""

    folder: Path
    layers: int
    rank: int


def write_original_layout(base: str | None, lora: Path, output: Path) -> OriginalExport:
    """Writes the adapter ``lora`` into ``output``, for the names in the base's own files.

    ``base``: default, what the adapter says. Raises ProblemsError: LS4300 to LS4302 of the adapter, LS4308
    ``output`` exists, LS4317 no base, LS4159 a base whose files have the names that were trained, and those
    of ``families._source.resolve``.
    """
    from safetensors.torch import load_file

    if output.exists():
        raise ProblemsError(Problem("LS4308", {"path": str(output)}, Location(str(output))))
    adapter = read_peft(lora)
    named = base or adapter.base
    if not named:
        raise ProblemsError(Problem("LS4317", {"missing": "--base", "path": str(adapter.path)}))
    source = resolve(named)
    convert = getattr(find("auto", source), "to_original_layout", None)
    if convert is None:
        raise ProblemsError(Problem("LS4159", {"path": str(adapter.path), "base": source.name}))
    state = load_file(adapter.path / WEIGHTS)
    try:
        weights, settings = convert(state, adapter.config, source.config)
    except ValueError as error:
        where = Location(str(adapter.path))
        raise ProblemsError(
            Problem("LS4301", {"path": str(adapter.path), "what": str(error)}, where)
        ) from error
    write_atomic(output / CONFIG, json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
    write_safetensors(output / WEIGHTS, weights, {"format": "pt"})
    return OriginalExport(output, len(weights) // 2, int(settings["r"]))
