"""From a prepared config to the objects of a run: the only place where configuration becomes objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lora_scripts.adapters.attach import Adapter, set_training
from lora_scripts.config.schema import RunConfig
from lora_scripts.core.events import Noted
from lora_scripts.families._base import Family, Model
from lora_scripts.preflight.prepare import Prepared, Report

from . import heap, optimizers
from .averages import Lender, MovingAverage, Values, schedule_free_evaluation
from .batches import Batches
from .callbacks.validation import Evaluator
from .checkpoint import Snapshot
from .loop import Job
from .precision import Precision
from .processes import Group
from .schedules import Schedule
from .state import TrainingState
from .task import Progress, Task, task_named

if TYPE_CHECKING:
    import torch


EMA = "@ema:"


def pick_device() -> torch.device:
    import torch

    if torch.cuda.is_available():
        repeat_exactly()
        return torch.device("cuda", torch.cuda.current_device())
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
    config, family = prepared.config, prepared.family
    assert family is not None
    update: dict[str, Any] = {
        "family": family.sheet.name,
        "lora_alpha": config.alpha,
        "mixed_precision": mode,
        "output_name": config.name,
    }
    if config.target_modules == "auto":
        update["target_modules"] = family.sheet.default_preset
    return config.model_copy(update=update | task_named(config.task_type).resolve(prepared))


@dataclass
class Session:
    """The objects of one attempt at one run. ``data``: the fingerprint of what is learnt from; ``start``: the
    adapter as it is before the first window, in the computer's memory."""

    config: RunConfig
    task: Task
    family: Family
    model: Model
    adapter: Adapter
    dataset: Report
    data: Mapping[str, Any]
    batches: Batches
    job: Job
    evaluator: Evaluator | None
    lend: Lender
    extra: Any
    notes: list[Noted]
    start: Snapshot


def open_session(
    prepared: Prepared,
    config: RunConfig,
    data: Mapping[str, Any],
    device: torch.device,
    progress: Progress,
    group: Group | None = None,
) -> Session:
    """Loads the base, attaches the adapter, prepares what is learnt from.

    ``progress`` may raise to leave; the cache on disk is then whole as far as it got.
    """
    family, dataset = prepared.family, prepared.dataset
    assert family is not None
    assert dataset is not None
    assert dataset.plan is not None
    precision = Precision(config.mixed_precision, device)
    task = task_named(config.task_type)
    opened = task.open(prepared, config, precision, progress)
    config = config.model_copy(update=dict(opened.found))
    model, adapter = opened.model, opened.adapter
    set_training(model, adapter, True)
    heap.give_back()
    group = group or Group()
    batches = Batches(model, opened.examples, dataset.plan, config.seed, group)
    job = Job(
        objective=opened.objective,
        batches=batches,
        parameters=adapter.parameters,
        optimizer=optimizers.build(config.optimizer, opened.groups, config.weight_decay),
        precision=precision,
        schedule=Schedule(
            config.lr_scheduler,
            dataset.total_steps,
            config.warmup_steps,
            config.lr_num_cycles,
            config.lr_power,
            config.lr_min_ratio,
        ),
        total_steps=dataset.total_steps,
        max_grad_norm=config.max_grad_norm,
        seed=config.seed,
        average=MovingAverage(adapter.parameters, config.ema_decay) if config.ema_decay else None,
        group=group,
    )
    lend = Lender(adapter.parameters, _evaluation_weights(job, config.optimizer))
    evaluator = (
        Evaluator(model, adapter, opened.objective, precision, opened.held_out, lend)
        if opened.held_out
        else None
    )
    return Session(
        config, task, family, model, adapter, dataset, data, batches, job, evaluator, lend, opened.extra,
        opened.notes, in_memory(snapshot_of(job, TrainingState())),
    )  # fmt: skip


def _evaluation_weights(job: Job, optimizer: str) -> Callable[[], Values] | None:
    """What is measured and exported in place of the weights that are being trained, if anything is."""
    if job.average is not None:
        return job.average.evaluation
    if optimizer == "schedulefree":
        return lambda: schedule_free_evaluation(job.optimizer, job.parameters)
    return None


def in_memory(snapshot: Snapshot) -> Snapshot:
    """A copy that training does not change and that takes nothing of a card."""
    adapter, optimizer = (
        {name: value.to("cpu", copy=True) for name, value in tensors.items()}
        for tensors in (snapshot.adapter, snapshot.optimizer)
    )
    return Snapshot(snapshot.step, adapter, optimizer, snapshot.state)


def snapshot_of(job: Job, state: TrainingState) -> Snapshot:
    """Everything that the next window depends on, as it is now."""
    names = {parameter: name for name, parameter in job.parameters.items()}
    tensors, scalars = optimizers.pack_state(job.optimizer, names)
    if job.average is not None:
        tensors |= {f"{EMA}{name}": value for name, value in job.average.values.items()}
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
    kept = {name: value for name, value in snapshot.optimizer.items() if not name.startswith(EMA)}
    job.optimizer.state.clear()  # at the start there is none
    optimizers.unpack_state(job.optimizer, job.parameters, kept, snapshot.state["optimizer"])
    if job.average is not None:
        with torch.no_grad():
            for name, value in job.average.values.items():
                value.copy_(snapshot.optimizer[f"{EMA}{name}"])
    scaler = snapshot.state["scaler"]
    if scaler:
        job.precision.scaler.load_state_dict(
            {key: float.fromhex(value) if isinstance(value, str) else value for key, value in scaler.items()}
        )
