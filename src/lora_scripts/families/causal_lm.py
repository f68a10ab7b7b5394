"""Every causal language model that Transformers has classes of its own for, and GGUF files of them."""

from __future__ import annotations

from ._base import Component, Sheet
from ._causal import CausalFamily
from ._text_targets import PRESETS

SHEET = Sheet(
    name="causal_lm",
    title="causal language model",
    task="text-generation",
    required_fields=("ids", "targets"),
    components={"model": Component("model", "transformers", "AutoModelForCausalLM")},
    predictor="model",
    target_presets=PRESETS,
    default_preset="all-linear",
    supports={"gradient_checkpointing": True, "packing": True, "quantization": True},
)

FAMILY = CausalFamily(SHEET)
