"""From a source to a description or a loaded model, the same way for every family of picture models."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from lora_scripts.core.lookup import did_you_mean
from lora_scripts.core.problems import Location, Problem, ProblemsError

from . import _components as parts
from . import _quantised
from . import _single_file as single
from ._base import Component, ImageDescription, ImageModel
from ._source import Source
from ._tokenizer_folder import tokenizer_folder

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ._diffusion import LatentDiffusion


NONE = "none"
"""What is written in place of a component's file for one that is to be left out."""
KINDS = {
    9: "inpainting",
    8: "instruct-pix2pix",
    5: "depth",
    7: "upscaler",
    384: "FLUX Fill",
    128: "FLUX Control",
}
"""Channels that a special-purpose predictor takes."""


def _sources(
    family: LatentDiffusion, source: Source, components: Mapping[str, str] | None
) -> dict[str, Source]:
    """Component or tokenizer -> where it comes from; without an optional one that is said to be ``none``.
    ProblemsError LS4015 for a component that the family has not."""
    parts_of = family.sheet.components
    known = [*parts_of, *(n for n in family.sheet.tokenizers if n not in family.brought)]
    wrong = [name for name in components or {} if name not in known]
    if wrong:
        raise ProblemsError(
            Problem(
                "LS4015",
                {
                    "component": name,
                    "known": ", ".join(known),
                    "near": did_you_mean(name, known, cutoff=50.0) or next(iter(known)),
                },
            )
            for name in wrong
        )
    left_out = {
        name
        for name, place in (components or {}).items()
        if place == NONE and name in parts_of and parts_of[name].optional
    }
    given = {n: place for n, place in (components or {}).items() if n not in left_out}
    chosen = {name: parts.override(name, place) for name, place in given.items()}
    return {name: source for name in parts_of if name not in left_out} | chosen


def beside(family: LatentDiffusion, source: Source) -> dict[str, str]:
    """The reader's tokenizer where it lies beside the base: what is made of the base may lie elsewhere."""
    name = str(getattr(family, "reader_tokenizer", ""))
    folder = tokenizer_folder(name, None, [source.path]) if name and source.kind == "file" else None
    return {name: str(folder)} if folder else {}


def _config(family: LatentDiffusion, part: Component, source: Source) -> dict[str, Any]:
    if source.path.is_dir():
        return parts.config_in(parts.folder_of(part, source))
    return single.config_of(part, family.layouts[part.name], source)


def _said(source: Source) -> str | None:
    """What a single file says about its prediction, by the keys that mark it or by its ModelSpec header."""
    if "v_pred" in source.shapes:
        return "v_prediction"
    told = source.metadata.get("modelspec.prediction_type")
    if told in ("v", "epsilon"):
        return "v_prediction" if told == "v" else "epsilon"
    architecture = source.metadata.get("modelspec.architecture", "").partition("/")[0]
    return {"stable-diffusion-v2-768-v": "v_prediction", "stable-diffusion-v2-512": "epsilon"}.get(
        architecture
    )


def _scheduler(
    family: LatentDiffusion, source: Source, configs: Mapping[str, Any], prediction_type: str
) -> tuple[dict[str, Any], bool]:
    """The noise schedule's configuration with what the base predicts: as asked for, else as it says, else the
    likelier; and whether that is settled."""
    config = dict(family.scheduler_of(configs))
    if source.kind == "folder":
        config = json.loads((source.path / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
    elif (said := _said(source)) in family.predictions:
        config["prediction_type"] = said
    if "ztsnr" in source.shapes:
        config["rescale_betas_zero_snr"] = True
    if prediction_type != "auto":
        config["prediction_type"] = prediction_type
    settled = "prediction_type" in config or not family.ambiguous
    config.setdefault("prediction_type", family.predictions[0])
    if config["prediction_type"] not in family.predictions:
        params = {"found": config["prediction_type"], "known": ", ".join(family.predictions)}
        raise ProblemsError(Problem("LS4017", params, Location(str(source.path))))
    return config, settled


def _check(family: LatentDiffusion, source: Source, configs: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuses a predictor that wants more than noisy latents, naming what it is. ProblemsError LS4010."""
    taken = configs[family.sheet.predictor].get("in_channels")
    latent = family.input_channels(configs)
    if taken != latent:
        kind = KINDS.get(taken or 0, "special")
        params = {"kind": kind, "channels": taken, "expected": latent, "path": str(source.path)}
        raise ProblemsError(Problem("LS4010", params, Location(str(source.path))))


def _fingerprint(source: Source, places: Mapping[str, Source]) -> dict[str, Any]:
    """What the base is by content, with the parts that come from elsewhere."""
    others: dict[str, Any] = {
        name: place.fingerprint() for name, place in places.items() if place is not source and place.headers
    }
    return {**source.fingerprint(), **({"components": others} if others else {})}


def _packed_already(config: Mapping[str, Any], source: Source) -> list[Problem]:
    method = (config.get("quantization_config") or {}).get("quant_method")
    told = {"path": str(source.path), "method": method}
    return [Problem("LS4550", told, Location(str(source.path)))] if method else []


def _width(config: Mapping[str, Any]) -> int:
    names = ("cross_attention_dim", "joint_attention_dim", "cap_feat_dim")
    width = next((config[name] for name in names if config.get(name)), 0)
    return int(width if isinstance(width, int) else max(width))


def _only_absent(error: ProblemsError) -> bool:
    return all(problem.code == "LS4011" for problem in error.problems)


def _described(
    family: LatentDiffusion, source: Source, components: Mapping[str, str] | None, prediction_type: str
) -> tuple[dict[str, Source], dict[str, Any], ImageDescription]:
    """Component -> where it comes from, the noise schedule's configuration, and the description.
    ProblemsError LS4551 for the folder of the predictor alone, and as ``describe``."""
    if source.kind == "transformers":
        told = {"path": str(source.path), "title": family.sheet.named(), "parent": str(source.path.parent)}
        raise ProblemsError(Problem("LS4551", told, Location(str(source.path))))
    components = components or source.components
    places = _sources(family, source, components)
    predictor = family.sheet.predictor
    configs = {predictor: _config(family, family.sheet.components[predictor], places[predictor])}
    problems: list[Problem] = []
    for name, part in family.sheet.components.items():
        if name not in places:
            continue
        try:
            configs.setdefault(name, {}).update(_config(family, part, places[name]))
        except ProblemsError as error:
            configs.pop(name)
            if not (part.optional and name not in (components or {}) and _only_absent(error)):
                problems += error.problems
    problems += [problem for name in configs for problem in _packed_already(configs[name], places[name])]
    problems += family.missing(places, configs)
    if problems:
        raise ProblemsError(problems)
    _check(family, source, configs)
    scheduler, settled = _scheduler(family, source, configs, prediction_type)

    def build() -> dict[str, nn.Module]:
        made = family.sheet.components.items()
        return {name: parts.build(part, configs[name]) for name, part in made if name in configs}

    description = ImageDescription(
        source=source,
        family=family.sheet.name,
        resolution=family.resolution(configs, source, scheduler["prediction_type"]),
        size_multiple=family.size_multiple(configs),
        largest_side=family.largest_side(configs),
        prediction_type=scheduler["prediction_type"],
        prediction_settled=settled,
        guided=bool(configs[predictor].get("guidance_embeds")),
        latent_channels=int(configs["vae"]["latent_channels"]),
        latent_factor=family.factor(configs),
        text_width=_width(configs[predictor]),
        fingerprint=_fingerprint(source, places),
        build=build,
    )
    return places, scheduler, description


def describe(
    family: LatentDiffusion, source: Source, components: Mapping[str, str] | None, prediction_type: str
) -> ImageDescription:
    return _described(family, source, components, prediction_type)[2]


def load(
    family: LatentDiffusion,
    source: Source,
    device: torch.device | str,
    dtype: torch.dtype | None,
    components: Mapping[str, str] | None,
    prediction_type: str,
    *,
    quantization: str = "none",
    later: bool = False,
) -> ImageModel:
    """``later``: the predictor is loaded when the model is completed."""
    import torch

    place = torch.device(device)
    asked = dtype or torch.float32
    places, scheduler, description = _described(family, source, components, prediction_type)
    modules = description.build()
    predictor = family.sheet.predictor
    configs = {name: parts.config_of(module) for name, module in modules.items()} if later else {}

    def filled(name: str, module: nn.Module) -> nn.Module:
        frozen = _filled(family, name, module, places[name], quantization, place, asked)
        if name == predictor:
            family.tune(frozen, place, asked)
        return frozen

    waiting: dict[str, Callable[[], nn.Module]]
    waiting = {predictor: partial(filled, predictor, modules[predictor])} if later else {}
    modules = {name: filled(name, module) for name, module in modules.items() if name not in waiting}
    return ImageModel(
        family=family,
        description=description,
        modules=modules,
        tokenizers=family.tokenizers_of(source, places),
        scheduler_config=scheduler,
        schedule=family.schedule(scheduler),
        configs=configs or {name: parts.config_of(module) for name, module in modules.items()},
        device=place,
        dtype=asked,
        quantization=quantization,
        waiting=waiting,
    )


def _filled(
    family: LatentDiffusion,
    name: str,
    module: nn.Module,
    source: Source,
    quantization: str,
    device: torch.device,
    asked: torch.dtype,
) -> nn.Module:
    """``module`` with the weights of ``source``, frozen. What is stored in full precision is not packed."""
    part = family.sheet.components[name]
    kept = _kept(part, asked)
    folder = parts.folder_of(part, source) if source.path.is_dir() else None
    if quantization == "none" or part.storage == "float32":
        if folder:
            module = parts.load_folder(part, folder, kept)
        else:
            single.load(part, family.layouts[name], source, module, device=device, dtype=kept)
        return parts.freeze(module.to(device))
    if folder:
        module = _quantised.load_folder(part, folder, quantization, device=device, dtype=kept)
    else:
        state = single.state_of(part, family.layouts[name], source, module)
        module = _quantised.fill(part, module, state, quantization, device=device, dtype=kept)
    return parts.freeze(module)


def _kept(part: Component, asked: torch.dtype) -> torch.dtype:
    import torch

    if part.storage == "float32":
        return torch.float32
    return torch.bfloat16 if part.storage == "wide" and asked == torch.float16 else asked
