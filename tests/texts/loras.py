"""Saved text LoRAs with a visible effect, for tests that talk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from lora_scripts.adapters.attach import Adapter, attach
from lora_scripts.adapters.spec import AdapterSpec
from lora_scripts.export.peft_folder import write_peft
from lora_scripts.export.text_facts import TextFacts
from lora_scripts.families._source import find, resolve


def load(base: Path, *, packing: bool = False) -> Any:
    source = resolve(str(base))
    return find("auto", source).load(source, packing=packing)


def strengthen(adapter: Adapter, seed: int = 1, size: float = 0.3) -> None:
    """Gives every second matrix values, so that the adapter does something."""
    with torch.no_grad():
        for number, (name, parameter) in enumerate(adapter.parameters.items()):
            if ".lora_B." in name:
                parameter.normal_(0, size, generator=torch.Generator().manual_seed(seed * 1000 + number))


def write_lora(folder: Path, base: Path, *, seed: int = 1, size: float = 0.3, **config: Any) -> Path:
    """A LoRA of ``base`` as a finished run leaves it; ``config`` is what it was trained with."""
    model = load(base)
    adapter = attach(model, AdapterSpec(4, 4.0), seed=seed)
    strengthen(adapter, seed, size)
    write_peft(folder, model, adapter, TextFacts(folder.name, {"base_model": str(base), **config}))
    return folder
