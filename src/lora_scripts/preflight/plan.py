"""The plan of a run in numbers, as lines a person reads before it starts."""

from __future__ import annotations

from typing import Any

from lora_scripts.adapters.spec import match_targets
from lora_scripts.core.catalogue import say
from lora_scripts.core.problems import ProblemsError
from lora_scripts.families._base import ImageDescription, TextDescription

from .checks.cache_room import CacheRoom
from .prepare import Prepared


def plan_lines(prepared: Prepared) -> list[str]:
    """What is known, in reading order: base model, data and steps, and what the demo base is not."""
    lines = []
    description = prepared.description
    if description and prepared.family and prepared.source:
        told: dict[str, Any] = {"title": prepared.family.sheet.named(), "name": prepared.source.name}
        if isinstance(description, ImageDescription):
            settled = description.prediction_type if description.prediction_settled else None
            told |= {
                "resolution": description.resolution,
                "prediction": settled or say("picture_model.undecided"),
            }
            lines.append(say("plan.base", **told))
        elif isinstance(description, TextDescription):
            told |= {"type": description.model_type, "context": description.context}
            lines.append(say("plan.language_base", **told))
            if description.source.kind == "gguf":
                lines.append(say("plan.gguf"))
            lines += _targets(prepared, description)
    if prepared.dataset:
        lines += prepared.dataset.lines()
    if prepared.cache and prepared.cache.size:
        lines.append(_cache(prepared.cache))
    if prepared.source and prepared.source.builtin and isinstance(description, ImageDescription):
        lines.append(say("run.demo_base"))
    return lines


def _cache(room: CacheRoom) -> str:
    return say(
        "plan.cache",
        size=size_text(room.size),
        free=size_text(room.free),
        pictures=room.latents,
        captions=room.texts,
        path=room.folder,
    )


def size_text(size: int) -> str:
    """Bytes as a person reads them."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{max(1, round(size / 2**20))} MiB"


def _targets(prepared: Prepared, description: TextDescription) -> list[str]:
    """How much of the model learns, counted on its own layers."""
    config, family = prepared.config, prepared.family
    assert family is not None
    try:
        matched = match_targets(family.sheet, description.modules, config.target_modules)
    except ProblemsError:
        return []
    shapes = [description.modules[part][name] for part, names in matched.items() for name in names]
    size = sum(config.lora_rank * (shape[0] + shape[1]) for shape in shapes)
    return [say("plan.adapter", modules=len(shapes), parameters=f"{size:,}", rank=config.lora_rank)]
