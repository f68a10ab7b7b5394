"""Pictures: stages fill the cache, what is then idle leaves memory, files go to WebUIs."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from lora_scripts.adapters.attach import Adapter, attach
from lora_scripts.adapters.spec import fits
from lora_scripts.config.schema import OWN_RATE, RunConfig
from lora_scripts.core.catalogue import say
from lora_scripts.core.control import Control
from lora_scripts.core.events import Emit, Noted
from lora_scripts.core.paths import RunFolder, cache_folder
from lora_scripts.core.problems import Problem, ProblemsError
from lora_scripts.core.seeds import derive_seed
from lora_scripts.data.sample import Sample
from lora_scripts.data.samples import Samples
from lora_scripts.export.earlier import fitted, put_into
from lora_scripts.families._base import (
    Batch,
    Draw,
    ImageDescription,
    ImageFamily,
    ImageModel,
    Item,
)
from lora_scripts.families._stages import StageOptions
from lora_scripts.preflight.checks.dataset import DatasetReport
from lora_scripts.preflight.checks.picture_training import spec_of
from lora_scripts.preflight.prepare import Prepared

from . import prediction
from .callbacks.validation import VALIDATION_SEED
from .image_exports import ImageExports
from .losses import LossRule
from .objective import Denoising
from .precision import Precision
from .stages import CachedStages
from .state import TrainingState
from .task import Opened, PreviewMaker, Progress

if TYPE_CHECKING:
    import torch

    from .session import Session

DEFAULT_TEXT_ENCODER_RATE = 0.25
"""Of the learning rate: text encoders forget quickly, and this keeps what a word meant before."""


class Pictures:
    """Samples and what the stages made of them. Where some count differently, each item says how much."""

    def __init__(self, samples: Samples, stages: CachedStages) -> None:
        self.samples = samples
        self.stages = stages
        self.weighted = any(handling.weight != 1 for handling in samples.handlings)

    def key(self, index: int) -> str:
        return self.samples[index].key

    def item(self, index: int, draw: Draw) -> Item:
        sample = self.samples[index]
        item = self.stages.item(sample.drawn(draw.seed))
        return item | {"loss_weight": _scalar(sample.handling.weight)} if self.weighted else item

    def name(self, index: int) -> str:
        return self.samples[index].picture.path.name

    def sizes(self) -> np.ndarray:
        placed = self.samples.placements.astype(np.int64)
        found: np.ndarray = placed[:, 0] * placed[:, 1]
        return found


class ImageTask:
    def resolve(self, prepared: Prepared) -> dict[str, Any]:
        config, description = prepared.config, cast(ImageDescription, prepared.description)
        update: dict[str, Any] = {
            "resolution": description.resolution if config.resolution == "auto" else config.resolution,
            "prediction_type": description.prediction_type if description.prediction_settled else "auto",
            "gradient_checkpointing": config.gradient_checkpointing is True,
        }
        if config.train_text_encoder and config.text_encoder_learning_rate is None:
            share = 1.0 if config.optimizer in OWN_RATE else DEFAULT_TEXT_ENCODER_RATE
            update["text_encoder_learning_rate"] = config.learning_rate * share
        return update

    def open(self, prepared: Prepared, config: RunConfig, precision: Precision, progress: Progress) -> Opened:
        family, dataset = cast(ImageFamily, prepared.family), cast(DatasetReport, prepared.dataset)
        assert prepared.source is not None
        progress("base", 0, 1)
        model = family.load(
            prepared.source,
            device=precision.device,
            dtype=precision.dtype,
            components=config.components,
            prediction_type=config.prediction_type,
            quantization=config.quantization,
            later=True,
        )
        family.configure(model, config)
        progress("base", 1, 1)
        trained = family.sheet.text_encoders if config.train_text_encoder else ()
        stages = CachedStages(
            family.stages(
                model,
                StageOptions(
                    cache_dtype=_cache_dtype(precision),
                    background=config.background,
                    trained=trained,
                    caption_tokens=config.max_caption_tokens,
                    crops=config.random_crop,
                    masks=config.loss_mask != "none",
                ),
            ),
            cache_folder(config.cache_dir),
        )
        stages.fill(dataset.forms, progress)
        previews = [*config.preview.prompts, config.preview.negative_prompt] if config.preview.prompts else []
        encoded = family.prompts(model, previews) if previews and not trained else []
        _release_idle(model, trained, keep_vae=bool(previews) or config.random_crop)
        model.complete()
        tried, items = None, [stages.item(sample) for sample in dataset.train[: prediction.PICTURES]]
        if not model.description.prediction_settled:
            tried = prediction.denoising_losses(family, model, items)
            family.settle(model, prediction.decide(tried))
            if config.zero_terminal_snr and model.description.prediction_type == "epsilon":
                raise ProblemsError(Problem("LS4401"))
        spec = spec_of(config)
        adapter = attach(model, spec, train_text_encoder=config.train_text_encoder, seed=config.seed)
        if config.init_from is not None:
            path = Path(config.init_from).expanduser()
            earlier = fitted(path, family, model.description.modules, adapter.matched, spec)
            put_into(earlier, model, adapter)
        family.set_gradient_checkpointing(model, config.gradient_checkpointing is True)
        held_out = _HeldOut(family, model, stages, dataset.validation, config.validation.timesteps)
        return Opened(
            model=model,
            adapter=adapter,
            examples=Pictures(dataset.train, stages),
            objective=Denoising(family, model, _loss_rule(config)),
            groups=_groups(config, adapter),
            held_out=held_out if dataset.validation else None,
            extra=encoded,
            notes=[_tried(model, tried, len(items))] if tried else [],
            found={"prediction_type": model.description.prediction_type} if tried else {},
        )

    def previews(self, session: Session, folder: RunFolder, control: Control, emit: Emit) -> PreviewMaker:
        from .callbacks.preview import Previews

        return Previews(session, folder, control, emit)

    def exports(self, session: Session, state: TrainingState, folder: RunFolder) -> ImageExports:
        return ImageExports(session, state, folder)


TASK = ImageTask()


class _HeldOut:
    """Each held-out picture at ``timesteps`` evenly spread time steps, with noise of its own."""

    def __init__(
        self,
        family: ImageFamily,
        model: ImageModel,
        stages: CachedStages,
        samples: Sequence[Sample],
        timesteps: int,
    ) -> None:
        self.family = family
        self.model = model
        self.stages = stages
        self.samples = samples
        self.timesteps = timesteps

    def __call__(self) -> Iterator[Batch]:
        import torch

        length = self.model.schedule.config.num_train_timesteps
        spread = [int(length * (index + 0.5) / self.timesteps) for index in range(self.timesteps)]
        for sample in self.samples:
            item = self.stages.item(sample)
            draws = [Draw(derive_seed(VALIDATION_SEED, sample.picture.sha256, t), t) for t in spread]
            with torch.autocast(self.model.device.type, enabled=False):  # as training's batches, made aside
                batch = self.family.collate(self.model, [item] * len(draws), draws)
            yield batch


def _cache_dtype(precision: Precision) -> torch.dtype:
    """Halves are cached as fp16 in both modes: it keeps three more bits than bf16 at the same size."""
    import torch

    return torch.float32 if precision.mode == "no" else torch.float16


def _scalar(value: float) -> torch.Tensor:
    import torch

    return torch.tensor(value, dtype=torch.float32)


def _release_idle(model: ImageModel, trained: tuple[str, ...], *, keep_vae: bool) -> None:
    keep = {model.family.sheet.predictor, *trained, *(("vae",) if keep_vae else ())}
    model.release(*(name for name in list(model.modules) if name not in keep))
    gc.collect()
    if model.device.type == "cuda":
        import torch

        torch.cuda.empty_cache()


def _tried(model: ImageModel, losses: Mapping[str, float], count: int) -> Noted:
    told = {"epsilon": f"{losses['epsilon']:.3f}", "velocity": f"{losses['v_prediction']:.3f}"}
    kind = model.description.prediction_type
    return Noted(code="", text=say("picture_model.tried", kind=kind, count=count, **told))


def _loss_rule(config: RunConfig) -> LossRule:
    return LossRule(
        kind=config.loss_type,
        huber_c=config.huber_c,
        huber_schedule=config.huber_schedule,
        min_snr_gamma=config.min_snr_gamma,
        debiased=config.debiased_estimation_loss,
    )


def _groups(config: RunConfig, adapter: Adapter) -> dict[str, tuple[dict[str, Any], float]]:
    """Parameter groups with learning rates: the predictor's, and those of text encoders that are trained;
    layers with a factor of their own (``lr_pattern``) apart, as ``<group> x<factor>``."""
    text = config.text_encoder_learning_rate or config.learning_rate
    rates = {"predictor": config.learning_rate, "text_encoder": text}
    groups: dict[str, tuple[dict[str, Any], float]] = {group: ({}, rate) for group, rate in rates.items()}
    for name, parameter in adapter.parameters.items():
        group = "text_encoder" if name.startswith("text_encoder") else "predictor"
        component, _, rest = name.partition(".")
        module = rest.partition(".lora_")[0]
        factor = next((f for p, f in config.lr_pattern.items() if fits(p, component, module)), 1.0)
        place = group if factor == 1.0 else f"{group} x{factor:g}"
        groups.setdefault(place, ({}, rates[group] * factor))[0][name] = parameter
    return groups
