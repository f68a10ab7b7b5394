"""From a prepared config to the objects of a run: the only place where configuration becomes objects."""

from __future__ import annotations

import gc
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_scripts.adapters.attach import Adapter, attach, set_training
from lora_scripts.adapters.spec import AdapterSpec
from lora_scripts.config.schema import RunConfig
from lora_scripts.families._base import Family, Model, PromptInputs
from lora_scripts.preflight.checks.dataset import DatasetReport
from lora_scripts.preflight.prepare import Prepared

from . import optimizers
from .batches import Batches
from .callbacks.validation import Evaluator
from .checkpoint import Snapshot
from .loop import Job
from .objective import Denoising
from .precision import Precision
from .stages import CachedStages, Progress
from .state import TrainingState

if TYPE_CHECKING:
    import torch

DEFAULT_TEXT_ENCODER_RATE = 0.25
"""Of the learning rate: text encoders forget quickly, and this keeps what a word meant before."""


def pick_device() -> torch.device:
    import torch

    if torch.cuda.is_available():
        repeat_exactly()
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def repeat_exactly() -> None:
    """Asks CUDA for kernels whose sums have one order. What has none only warns: a run is worth more."""
    import os

    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.use_deterministic_algorithms(True, warn_only=True)
    # filling every new tensor finds bugs of others and costs time
    setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010 - made at run time


def resolve(prepared: Prepared, mode: str) -> RunConfig:
    """The config with every ``auto``, and every default that depends on base or machine, filled in."""
    config, family, description = prepared.config, prepared.family, prepared.description
    assert family is not None
    assert description is not None
    update: dict[str, Any] = {
        "family": family.sheet.name,
        "resolution": description.resolution if config.resolution == "auto" else config.resolution,
        "prediction_type": description.prediction_type,
        "lora_alpha": config.alpha,
        "mixed_precision": mode,
        "output_name": config.name,
        "num_processes": 1,
    }
    if config.target_modules == "auto":
        update["target_modules"] = family.sheet.default_preset
    if config.train_text_encoder and config.text_encoder_learning_rate is None:
        update["text_encoder_learning_rate"] = config.learning_rate * DEFAULT_TEXT_ENCODER_RATE
    return config.model_copy(update=update)


def default_cache_dir() -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("lora-scripts", appauthor=False)


@dataclass
class Session:
    """The objects of one attempt at one run."""

    config: RunConfig
    family: Family
    model: Model
    adapter: Adapter
    dataset: DatasetReport
    data: Mapping[str, Any]
    stages: CachedStages
    batches: Batches
    job: Job
    evaluator: Evaluator | None
    preview_prompts: list[PromptInputs]


def open_session(
    prepared: Prepared,
    config: RunConfig,
    data: Mapping[str, Any],
    device: torch.device,
    progress: Progress,
) -> Session:
    """Loads the base, attaches the adapter, fills the cache, lets go of what is then idle.

    ``data`` is the fingerprint of what is learnt from.
    ``progress`` may raise to leave; the cache on disk is then whole as far as it got.
    """
    family, source, dataset = prepared.family, prepared.source, prepared.dataset
    assert family is not None
    assert source is not None
    assert dataset is not None
    assert dataset.plan is not None
    precision = Precision(config.mixed_precision, device)
    progress("base", 0, 1)
    model = family.load(
        source,
        device=device,
        dtype=precision.dtype,
        components=config.components,
        prediction_type=config.prediction_type,
    )
    progress("base", 1, 1)
    trained = family.sheet.text_encoders if config.train_text_encoder else ()
    stages = CachedStages(
        family.stages(
            model, cache_dtype=_cache_dtype(precision), background=config.background, trained=trained
        ),
        Path(config.cache_dir).expanduser() if config.cache_dir else default_cache_dir(),
    )
    stages.fill([*dataset.train, *dataset.validation], progress)
    previews = [*config.preview.prompts, config.preview.negative_prompt] if config.preview.prompts else []
    preview_prompts = family.prompts(model, previews) if previews and not trained else []
    _release_idle(model, trained, keep_decoder=bool(previews))
    adapter = attach(
        model,
        AdapterSpec(
            rank=config.lora_rank,
            alpha=config.alpha,
            dropout=config.lora_dropout,
            targets=tuple(config.target_modules)
            if isinstance(config.target_modules, list)
            else config.target_modules,
        ),
        train_text_encoder=config.train_text_encoder,
        seed=config.seed,
    )
    family.set_gradient_checkpointing(model, config.gradient_checkpointing)
    set_training(model, adapter, True)
    batches = Batches(family, model, stages, dataset.train, dataset.plan, config.seed)
    objective = Denoising(family, model)
    job = Job(
        objective=objective,
        batches=batches,
        parameters=adapter.parameters,
        optimizer=optimizers.build(config.optimizer, _groups(config, adapter), config.weight_decay),
        precision=precision,
        schedule=config.lr_scheduler,
        warmup_steps=config.warmup_steps,
        total_steps=dataset.total_steps,
        max_grad_norm=config.max_grad_norm,
        seed=config.seed,
    )
    evaluator = (
        Evaluator(
            family,
            model,
            adapter,
            stages,
            dataset.validation,
            objective,
            precision,
            config.validation.timesteps,
        )
        if dataset.validation
        else None
    )
    return Session(
        config, family, model, adapter, dataset, data, stages, batches, job, evaluator, preview_prompts
    )


def snapshot_of(session: Session, state: TrainingState) -> Snapshot:
    """Everything that the next window depends on, as it is now."""
    job = session.job
    names = {parameter: name for name, parameter in job.parameters.items()}
    tensors, scalars = optimizers.pack_state(job.optimizer, names)
    scaler = job.precision.scaler.state_dict()
    return Snapshot(
        step=state.step,
        adapter={name: parameter.detach() for name, parameter in job.parameters.items()},
        optimizer=tensors,
        state={
            "training": state.to_json(),
            "optimizer": scalars,
            "scaler": {
                key: value.hex() if isinstance(value, float) else value for key, value in scaler.items()
            },
        },
    )


def put_back(session: Session, snapshot: Snapshot) -> None:
    """Makes the session what it was when ``snapshot`` was taken, bit for bit."""
    import torch

    job = session.job
    with torch.no_grad():
        for name, parameter in job.parameters.items():
            parameter.copy_(snapshot.adapter[name])
    optimizers.unpack_state(job.optimizer, job.parameters, snapshot.optimizer, snapshot.state["optimizer"])
    scaler = snapshot.state["scaler"]
    if scaler:
        job.precision.scaler.load_state_dict(
            {key: float.fromhex(value) if isinstance(value, str) else value for key, value in scaler.items()}
        )


def _cache_dtype(precision: Precision) -> torch.dtype:
    """Halves are cached as fp16 in both modes: it keeps three more bits than bf16 at the same size."""
    import torch

    return torch.float32 if precision.mode == "no" else torch.float16


def _release_idle(model: Model, trained: tuple[str, ...], *, keep_decoder: bool) -> None:
    keep = {model.family.sheet.predictor, *trained, *(("vae",) if keep_decoder else ())}
    model.release(*(name for name in list(model.modules) if name not in keep))
    gc.collect()
    if model.device.type == "cuda":
        import torch

        torch.cuda.empty_cache()


def _groups(config: RunConfig, adapter: Adapter) -> Mapping[str, tuple[Mapping[str, Any], float]]:
    """Parameter groups with learning rates: the predictor's, and those of text encoders that are trained."""
    text = {name: p for name, p in adapter.parameters.items() if name.startswith("text_encoder")}
    rest = {name: p for name, p in adapter.parameters.items() if name not in text}
    rate = config.text_encoder_learning_rate or config.learning_rate
    return {"predictor": (rest, config.learning_rate), "text_encoder": (text, rate)}
