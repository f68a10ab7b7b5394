"""A tiny language model as the adapters see it, without a family's loading: module, sheet, description."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from lora_scripts.families._base import Component, Sheet
from lora_scripts.families._components import weight_shapes
from tests.texts import small

BLOCK = r"model\.layers\.\d+\."
SHEET = Sheet(
    name="small",
    title="A tiny language model",
    task="text-generation",
    required_fields=(),
    components={"model": Component("model", "transformers", "AutoModelForCausalLM")},
    predictor="model",
    supports={},
    default_preset="all-linear",
    target_presets={
        "all-linear": {"model": (BLOCK + r"(?:self_attn|mlp)\.(?:.+\.)?(?!gate$|shared_expert_gate$)[^.]+",)},
        "attention": {"model": (BLOCK + r"self_attn\.[^.]+",)},
    },
)
MIXTURES: dict[str, dict[str, Any]] = {
    "qwen3_moe": {},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "gpt_oss": {},
    "qwen2_moe": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 32,
    },
}
IDS = torch.arange(24)[None] * 7 % 300


def wrap(module: Any) -> Any:
    return SimpleNamespace(
        family=SimpleNamespace(sheet=SHEET),
        description=SimpleNamespace(modules={"model": weight_shapes(module)}),
        modules={"model": module},
        predictor=module,
    )


def build(kind: str = "llama", **changes: Any) -> Any:
    return wrap(small.model(kind, **MIXTURES.get(kind, {}), **changes))


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.predictor(IDS).logits


def excite(adapter: Any, size: float = 0.05) -> None:
    """Moves every parameter, each by draws of its own."""
    with torch.no_grad():
        for number, parameter in enumerate(adapter.parameters.values()):
            generator = torch.Generator().manual_seed(number)
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))


def train(model: Any, adapter: Any, steps: int = 5, rate: float = 1e-2) -> list[float]:
    optimizer = torch.optim.AdamW(list(adapter.parameters.values()), rate)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model.predictor(IDS, labels=IDS).loss
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses
