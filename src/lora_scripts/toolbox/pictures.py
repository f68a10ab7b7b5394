"""Pictures from a model: equal prompts, seeds and settings give equal pictures, whatever else is drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from lora_scripts.core.problems import Problem, ProblemsError
from lora_scripts.families._base import Model, PromptInputs

if TYPE_CHECKING:
    from PIL.Image import Image


def check_size(model: Model, width: int, height: int) -> None:
    """ProblemsError LS4043 for sides that the model cannot draw."""
    step = model.description.size_multiple
    problems = []
    for name, value in (("width", width), ("height", height)):
        if value < step or value % step:
            near = max(1, value // step) * step
            problems.append(Problem("LS4043", {"name": name, "value": value, "multiple": step, "near": near}))
    if problems:
        raise ProblemsError(problems)


def make_pictures(
    model: Model,
    prompts: Sequence[str],
    *,
    negative_prompt: str = "",
    encoded: Sequence[PromptInputs] = (),
    seed: int | Sequence[int] = 42,
    steps: int = 25,
    guidance_scale: float | None = None,
    width: int | None = None,
    height: int | None = None,
    pipe: Any = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Image]:
    """One picture for each prompt; ``seed`` is one for all or one for each.

    ``guidance_scale``: by default the family's. ``encoded``: the prompts, then the negative one, as
    ``family.prompts`` gives them, where the text encoder has left memory. ``width`` and ``height`` in pixels,
    by default the base's resolution. ``pipe``: the model's pipeline if it carries LoRAs of its own. Pictures
    are drawn one at a time with noise from the CPU, so that a picture does not depend on its neighbours or
    the device. Raises ProblemsError LS4043.
    """
    import torch

    family: Any = model.family
    side = model.description.resolution
    width, height = width or side, height or side
    check_size(model, width, height)
    seeds = [seed] * len(prompts) if isinstance(seed, int) else list(seed)
    inputs = list(encoded) or family.prompts(model, [*prompts, negative_prompt])
    negative = {f"negative_{name}": tensor for name, tensor in inputs[len(prompts)].items()}
    drawer = pipe or family.pipeline(model)
    pictures: list[Image] = []
    for number, (given, own_seed) in enumerate(zip(inputs[: len(prompts)], seeds, strict=True), start=1):
        if progress:
            progress(number, len(prompts))
        tensors = {n: t.to(device=model.device, dtype=model.dtype) for n, t in {**given, **negative}.items()}
        latents = family.run_pipeline(
            drawer,
            tensors,
            width=width,
            height=height,
            num_inference_steps=steps,
            guidance_scale=family.sheet.guidance if guidance_scale is None else guidance_scale,
            generator=torch.Generator("cpu").manual_seed(own_seed),
            output_type="latent",
        ).images
        pictures += family.decode(model, latents, (width, height))
    return pictures
