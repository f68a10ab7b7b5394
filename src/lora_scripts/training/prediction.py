"""What a base predicts, tried out on the user's own pictures where nothing else says it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lora_scripts.core.problems import Problem, ProblemsError
from lora_scripts.core.seeds import derive_seed
from lora_scripts.families._base import Draw, Item

if TYPE_CHECKING:
    from lora_scripts.families._base import ImageFamily, ImageModel

PICTURES, TIMESTEPS = 4, 8
"""How many pictures are tried, at how many evenly spread time steps each."""
CLEARLY = 0.7
"""A base errs far less in the kind that it was trained for: the small built-in one, whose noise prediction is
weak, by a factor of six. What is not under this share of the other decides nothing."""
NOTHING = 0.95
"""A base that errs as much as one that says nothing tells nothing."""
KINDS = ("epsilon", "v_prediction")


def denoising_losses(family: ImageFamily, model: ImageModel, items: Sequence[Item]) -> dict[str, float]:
    """Kind of prediction -> the base's mean squared error under it over the mean square of what it should
    have said, on the same outputs: 1 is the error of saying nothing, however flat the pictures are.

    Changes nothing about ``model``. The noise is a function of the pictures' order alone.
    """
    import torch

    length = model.schedule.config.num_train_timesteps
    spread = [int(length * (index + 0.5) / TIMESTEPS) for index in range(TIMESTEPS)]
    errors, sizes = dict.fromkeys(KINDS, 0.0), dict.fromkeys(KINDS, 0.0)
    for number, item in enumerate(items):
        draws = [Draw(derive_seed(0, "prediction", number, t), t) for t in spread]
        batch = family.collate(model, [item] * len(draws), draws)
        with torch.no_grad():
            said = family.predict(model, batch)
            latents, noise, times = (batch[n].to(model.device) for n in ("latents", "noise", "timesteps"))
            wanted = {"epsilon": noise, "v_prediction": model.schedule.get_velocity(latents, noise, times)}
        for kind, target in wanted.items():
            errors[kind] += float((said - target.float()).square().mean())
            sizes[kind] += float(target.float().square().mean())
    return {kind: errors[kind] / sizes[kind] for kind in KINDS}


def decide(losses: dict[str, float]) -> str:
    """The kind with clearly the smaller error. Raises ProblemsError LS4402 where neither is."""
    best, other = sorted(losses, key=lambda kind: losses[kind])
    if not losses[best] < min(CLEARLY * losses[other], NOTHING):
        told = {kind: f"{loss:.3f}" for kind, loss in losses.items()}
        raise ProblemsError(Problem("LS4402", {"epsilon": told["epsilon"], "velocity": told["v_prediction"]}))
    return best
