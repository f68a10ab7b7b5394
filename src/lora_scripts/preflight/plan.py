"""The plan of a run in numbers, as lines a person reads before it starts."""

from __future__ import annotations

from lora_scripts.core.catalogue import say

from .prepare import Prepared


def plan_lines(prepared: Prepared) -> list[str]:
    """What is known, in reading order: base model, pictures and steps, and what the demo base is not."""
    lines = []
    if prepared.description and prepared.family and prepared.source:
        lines.append(
            say(
                "plan.base",
                title=prepared.family.sheet.title,
                name=prepared.source.name,
                resolution=prepared.description.resolution,
                prediction=prepared.description.prediction_type,
            )
        )
    if prepared.dataset:
        lines += prepared.dataset.lines()
    if prepared.source and prepared.source.builtin:
        lines.append(say("run.demo_base"))
    return lines
