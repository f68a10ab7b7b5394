"""The model card beside a LoRA: what it is, how to use it, how it was made."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from lora_scripts.adapters.attach import Adapter
from lora_scripts.core.catalogue import say
from lora_scripts.core.files import write_atomic
from lora_scripts.families._base import Model

from .facts import ExportFacts

SETTINGS = (
    "learning_rate",
    "optimizer",
    "lr_scheduler",
    "batch_size",
    "gradient_accumulation_steps",
    "quantization",
    "seed",
)


def card_text(model: Model, adapter: Adapter, facts: ExportFacts, pictures: Sequence[str] = ()) -> str:
    """Markdown with the front matter that model hubs read. ``pictures``: paths beside the card."""
    described, sheet = model.description, model.family.sheet
    trigger = ", ".join(facts.trigger_words)
    front = [
        f"base_model: {json.dumps(described.source.name, ensure_ascii=False)}",
        "library_name: diffusers",
    ]
    front += ["tags:", "- lora", "- text-to-image", f"- {sheet.name}"]
    if trigger:
        front.append(f"instance_prompt: {json.dumps(trigger, ensure_ascii=False)}")
    lines = [
        "---",
        *front,
        "---",
        "",
        f"# {facts.name}",
        "",
        say("export.card.what", title=sheet.named()),
        "",
    ]
    lines += [f"![]({picture})" for picture in pictures]
    lines += ["", f"## {say('export.card.use')}", ""]
    lines += [
        say("export.card.demo" if described.source.builtin else "export.card.webui", name=facts.name),
        "",
    ]
    if trigger:
        lines += [say("export.card.trigger", words=trigger), ""]
    lines += [f"## {say('export.card.made')}", "", "| | |", "|---|---|"]
    rows = [
        (say("export.card.base"), described.source.name),
        (say("export.card.rank"), f"{adapter.spec.rank} / {adapter.spec.alpha:g}"),
        (say("export.card.layers"), ", ".join(f"{n}: {len(m)}" for n, m in adapter.matched.items())),
        (say("export.card.pictures"), str(facts.pictures)),
        (say("export.card.steps"), f"{facts.step} / {facts.total_steps}"),
        *((f"`{key}`", str(facts.config[key])) for key in SETTINGS if facts.config.get(key) is not None),
    ]
    lines += [f"| {name} | {value} |" for name, value in rows]
    lines += ["", say("export.card.repeat"), ""]
    return "\n".join(lines)


def write_card(
    path: Path, model: Model, adapter: Adapter, facts: ExportFacts, pictures: Sequence[str] = ()
) -> None:
    """Writes the card atomically, in the language in use."""
    write_atomic(path, card_text(model, adapter, facts, pictures))
