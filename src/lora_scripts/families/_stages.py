"""The cacheable steps of a latent diffusion model: pixels to moments, captions to token ids and
embeddings."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ._base import ImageModel, Stage
from ._clip import PIECE, pieces

if TYPE_CHECKING:
    import torch

    from lora_scripts.data.sample import Sample


@dataclass(frozen=True)
class StageOptions:
    """What a run asks of its stages. ``cache_dtype``: None is float32. ``background``: what transparency is
    laid on. ``trained``: components that get an adapter, so that their outputs are not cached.
    ``caption_tokens``: how many tokens are read, in pieces of 75. ``crops``: pictures are cut anew each time,
    so that nothing of them is cached. ``masks``: samples may have one."""

    cache_dtype: torch.dtype | None = None
    background: str = "white"
    trained: Collection[str] = ()
    caption_tokens: int = 75
    crops: bool = False
    masks: bool = False


PLAIN = StageOptions()


def _digest(*facts: object) -> str:
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def latents_stage(model: ImageModel, dtype: torch.dtype, background: str, *, cached: bool = True) -> Stage:
    """Pictures -> ``latents``: the VAE's moments (2 * channels, height / factor, width / factor).

    One picture a call: a batch's composition would show in the last bits, and an interrupted cache is
    composed differently when it goes on.
    """
    import torch

    from lora_scripts.data.buckets import prepare

    mark = model.component_hash("vae")

    def key(sample: Sample) -> str:
        placed = sample.placement
        size = (placed.bucket.width, placed.bucket.height, *placed.resize, *placed.crop)
        mirrored = ("mirrored",) if sample.flipped else ()
        return _digest("latents", 1, mark, sample.picture.sha256, size, background, str(dtype), *mirrored)

    def run(samples: list[Sample]) -> list[dict[str, Any]]:
        vae: Any = model.modules["vae"]  # looked up late: a stage must not keep a released module alive
        weight = next(vae.parameters())
        results = []
        for sample in samples:
            pixels = prepare(decoded(sample, background), sample.placement)
            if sample.flipped:
                pixels = pixels[:, ::-1].copy()
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
        cached=cached,
    )


def decoded(sample: Sample, background: str) -> Any:
    """The sample's picture, RGB. Raises ProblemsError where it is not there any more."""
    from lora_scripts.core.problems import ProblemsError
    from lora_scripts.data.images import BadPicture, decode

    try:
        return decode(sample.picture.path, background=background)
    except BadPicture as bad:
        raise ProblemsError(bad.problem) from bad


def mask_stage(factor: int, *, cached: bool = True) -> Stage:
    """Masks -> ``mask`` (1, height / factor, width / factor), 0 to 1; of pictures without one all ones."""

    def key(sample: Sample) -> str:
        placed = sample.placement
        size = (placed.bucket.width, placed.bucket.height, *placed.resize, *placed.crop)
        kind, mark = (sample.mask.kind, sample.mask.sha256) if sample.mask else ("whole", "")
        return _digest("mask", 1, factor, kind, mark, size, sample.flipped)

    def run(samples: list[Sample]) -> list[dict[str, Any]]:
        import numpy as np
        import torch

        from lora_scripts.core.problems import ProblemsError
        from lora_scripts.data.masks import fitted
        from lora_scripts.data.pixels import BadPicture

        results = []
        for sample in samples:
            placed = sample.placement
            if sample.mask is None:
                weights = np.ones((placed.bucket.height // factor, placed.bucket.width // factor), np.float32)
            else:
                try:
                    weights = fitted(sample.mask.open(), placed, factor)
                except BadPicture as bad:
                    raise ProblemsError(bad.problem) from bad
            results.append(
                {"mask": torch.from_numpy(weights[:, :: -1 if sample.flipped else 1].copy()).unsqueeze(0)}
            )
        return results

    return Stage(
        name="mask",
        components=(),
        key=key,
        group=lambda sample: (sample.placement.bucket.width, sample.placement.bucket.height),
        run=run,
        cached=cached,
    )


def ids_stage(model: ImageModel, tokens: int = PIECE) -> Stage:
    """Captions -> token numbers as ``tokenize`` names them, for text encoders that are trained: (77,), of
    more than 75 tokens (pieces, 77)."""
    vocabulary = _vocabulary(model)

    def run(samples: list[Sample]) -> list[dict[str, Any]]:
        return [
            {name: ids[0] for name, ids in tokenized(model, sample.caption, tokens).items()}
            for sample in samples
        ]

    return Stage(
        name="ids",
        components=(),
        key=lambda sample: _digest("ids", 1, vocabulary, sample.caption, *_longer(tokens)),
        group=lambda sample: 0,
        run=run,
    )


def text_stage(model: ImageModel, dtype: torch.dtype, tokens: int = PIECE) -> Stage:
    """Captions -> what the family's ``embed`` makes of them, one caption a call (see ``latents_stage``)."""
    family: Any = model.family
    names = family.readers(model)
    marks = [model.component_hash(name) for name in names]
    if model.clip_skip > 1:
        marks.append(f"clip_skip {model.clip_skip}")
    vocabulary = _vocabulary(model)

    def run(samples: list[Sample]) -> list[dict[str, Any]]:
        import torch

        results = []
        for sample in samples:
            with torch.no_grad():
                found = embedded(model, tokenized(model, sample.caption, tokens))
            results.append({n: t[0].to(device="cpu", dtype=dtype).contiguous() for n, t in found.items()})
        return results

    return Stage(
        name="text",
        components=names,
        key=lambda sample: _digest(
            "text", 1, marks, vocabulary, str(model.dtype), str(dtype), sample.caption, *_longer(tokens)
        ),
        group=lambda sample: 0,
        run=run,
    )


def _longer(tokens: int) -> tuple[int, ...]:
    """What a key says about more tokens than usual: caches of the usual number stay as they are."""
    return (tokens,) if tokens != PIECE else ()


def tokenized(model: ImageModel, caption: str, tokens: int) -> dict[str, torch.Tensor]:
    """One caption's token numbers by tokenizer: (1, 77), of more than 75 tokens (1, pieces, 77)."""
    family: Any = model.family
    if tokens == PIECE:
        plain: dict[str, torch.Tensor] = family.tokenize(model, [caption])
        return plain
    names = family.sheet.tokenizers
    return {
        "ids" if number == 0 else f"ids_{number + 1}": pieces(model.tokenizers[name], caption, tokens)
        for number, name in enumerate(names)
    }


def embedded(model: ImageModel, ids: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The family's ``embed`` over captions (B, 77), or over captions in pieces (B, pieces, 77).

    Pieces are read one by one and joined as sd-scripts joins them: the start of the first, what stands
    between start and end of each, the end of the last: (B, 75 * pieces + 2, width). What describes a caption
    as a whole is the first piece's.
    """
    import torch

    family: Any = model.family
    first = next(iter(ids.values()))
    if first.ndim == 2:
        found: dict[str, torch.Tensor] = family.embed(model, ids)
        return found
    batch, count = first.shape[:2]
    flat = {name: numbers.flatten(0, 1) for name, numbers in ids.items()}
    joined = {}
    for name, states in family.embed(model, flat).items():
        parts = states.unflatten(0, (batch, count))
        if states.ndim == 2:
            joined[name] = parts[:, 0]
            continue
        inner = parts[:, :, 1:-1].flatten(1, 2)
        joined[name] = torch.cat([parts[:, 0, :1], inner, parts[:, -1, -1:]], dim=1)
    return joined


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
