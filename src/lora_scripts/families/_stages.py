"""The cacheable steps of a latent diffusion model: pixels to moments, captions to token ids and
embeddings."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ._base import ImageModel, Stage

if TYPE_CHECKING:
    import torch

    from lora_scripts.data.sample import Sample


def _digest(*facts: object) -> str:
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def latents_stage(model: ImageModel, dtype: torch.dtype, background: str) -> Stage:
    """Pictures -> ``latents``: the VAE's moments (2 * channels, height / factor, width / factor).

    One picture a call: a batch's composition would show in the last bits, and an interrupted cache is
    composed differently when it goes on.
    """
    import torch

    from lora_scripts.data.buckets import prepare
    from lora_scripts.data.images import decode

    mark = model.component_hash("vae")

    def key(sample: Sample) -> str:
        placed = sample.placement
        size = (placed.bucket.width, placed.bucket.height, *placed.resize, *placed.crop)
        return _digest("latents", 1, mark, sample.picture.sha256, size, background, str(dtype))

    def run(samples: list[Sample]) -> list[dict[str, Any]]:
        vae: Any = model.modules["vae"]  # looked up late: a stage must not keep a released module alive
        weight = next(vae.parameters())
        results = []
        for sample in samples:
            pixels = prepare(decode(sample.picture.path, background=background), sample.placement)
            image = (
                torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0).to(weight.device).float() / 127.5 - 1
            )
            with torch.no_grad(), torch.autocast(weight.device.type, enabled=False):
                moments = vae.encode(image.to(weight.dtype)).latent_dist.parameters
            results.append({"latents": moments[0].to(device="cpu", dtype=dtype).contiguous()})
        return results

    return Stage(
        name="latents",
        components=("vae",),
        key=key,
        group=lambda sample: (sample.placement.bucket.width, sample.placement.bucket.height),
        run=run,
    )


def ids_stage(model: ImageModel) -> Stage:
    """Captions -> token numbers as ``tokenize`` names them, for text encoders that are trained."""
    family: Any = model.family
    vocabulary = _vocabulary(model)

    def run(samples: list[Sample]) -> list[dict[str, Any]]:
        return [
            {name: ids[0] for name, ids in family.tokenize(model, [sample.caption]).items()}
            for sample in samples
        ]

    return Stage(
        name="ids",
        components=(),
        key=lambda sample: _digest("ids", 1, vocabulary, sample.caption),
        group=lambda sample: 0,
        run=run,
    )


def text_stage(model: ImageModel, dtype: torch.dtype) -> Stage:
    """Captions -> what the family's ``embed`` makes of them, one caption a call (see ``latents_stage``)."""
    family: Any = model.family
    names = family.sheet.text_encoders
    marks = [model.component_hash(name) for name in names]
    vocabulary = _vocabulary(model)

    def run(samples: list[Sample]) -> list[dict[str, Any]]:
        import torch

        results = []
        for sample in samples:
            with torch.no_grad():
                found = family.embed(model, family.tokenize(model, [sample.caption]))
            results.append({n: t[0].to(device="cpu", dtype=dtype).contiguous() for n, t in found.items()})
        return results

    return Stage(
        name="text",
        components=names,
        key=lambda sample: _digest(
            "text", 1, marks, vocabulary, str(model.dtype), str(dtype), sample.caption
        ),
        group=lambda sample: 0,
        run=run,
    )


def _vocabulary(model: ImageModel) -> str:
    return _digest(
        [sorted(tokenizer.get_vocab().items()) for _, tokenizer in sorted(model.tokenizers.items())]
    )


def token_ids(tokenizer: Any, captions: Sequence[str]) -> torch.Tensor:
    """Token numbers (captions, length), cut and padded to the tokenizer's length."""
    ids: torch.Tensor = tokenizer(
        list(captions),
        padding="max_length",
        truncation=True,
        max_length=tokenizer.model_max_length,
        return_tensors="pt",
    ).input_ids
    return ids
