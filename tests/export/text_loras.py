"""Tiny text LoRAs for tests: a random base, an adapter with an effect, written as PEFT's folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lora_scripts.adapters.attach import attach
from lora_scripts.adapters.spec import AdapterSpec
from lora_scripts.export.peft_folder import write_peft
from lora_scripts.export.text_facts import TextFacts
from lora_scripts.families import _source
from tests.texts import small

FACTS = TextFacts(
    name="voice",
    config={"learning_rate": 1e-4, "output_dir": "/home/me/secret", "seed": 7, "base_model": "base"},
    data={"sha256": "ab", "train": 3, "validation": 1},
    versions={"torch": "2"},
    step=5,
    total_steps=9,
    epochs=2,
    rows=3,
    tokens=40,
    before={"loss": 3.0, "perplexity": 20.1},
    after={"loss": 1.0, "perplexity": 2.7},
)


@dataclass
class Made:
    base: Path
    lora: Path
    model: Any
    adapter: Any


def stir(adapter: Any, seed: int = 0, size: float = 0.1) -> None:
    """Gives every matrix numbers, so that the adapter does something."""
    with torch.no_grad():
        for number, parameter in enumerate(adapter.parameters.values()):
            generator = torch.Generator().manual_seed(1000 * seed + number)
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))


def load(base: Path, dtype: torch.dtype = torch.float32) -> Any:
    source = _source.resolve(str(base))
    family: Any = _source.find("auto", source)
    return family.load(source, dtype=dtype)


def make(
    folder: Path,
    kind: str = "llama",
    *,
    base: Path | None = None,
    tokenizer: Any = None,
    changes: dict[str, Any] | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    **spec: Any,
) -> Made:
    """``folder/base`` (unless ``base`` is there already) and ``folder/lora``, both still in memory."""
    if base is None:
        base = small.write_model(folder / "base", kind, tokenizer=tokenizer, **(changes or {}))
    model = load(base, dtype)
    adapter = attach(model, AdapterSpec(**{"rank": 4, "alpha": 6.0, **spec}), seed=1)
    stir(adapter, seed)
    write_peft(folder / "lora", model, adapter, FACTS)
    return Made(base, folder / "lora", model, adapter)
