"""The training loop: the only one, for every task. It knows windows, sums and weights, nothing of pictures.

For each window: sum its weights over micro-batches and processes first, backpropagate each ``sum / weight``,
add up the gradients once, unscale, check that all is finite, clip, step, tell what happened, then heed what
any process was asked for.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lora_scripts.core.control import Control
from lora_scripts.core.events import Emit, StepDone
from lora_scripts.core.seeds import derive_seed

from . import optimizers
from .averages import MovingAverage
from .batches import Batches, Window
from .failures import NoMemoryError, is_out_of_memory
from .objective import Objective
from .precision import Precision
from .processes import Group
from .schedules import Schedule
from .state import TrainingState

if TYPE_CHECKING:
    import torch


@dataclass
class Job:
    """All that ``fit`` works with; built by the session."""

    objective: Objective
    batches: Batches
    parameters: Mapping[str, torch.nn.Parameter]
    optimizer: Any
    precision: Precision
    schedule: Schedule
    total_steps: int
    max_grad_norm: float
    seed: int
    average: MovingAverage | None = None
    group: Group = field(default_factory=Group)


def fit(job: Job, state: TrainingState, emit: Emit, control: Control) -> None:
    """Trains until ``job.total_steps`` windows are consumed or ``control`` asks to leave.

    After every window a ``StepDone`` goes to ``emit``; listeners save, validate and preview there, so that
    they always see a whole step. Raises what a listener raises, such as a guard's ``DivergedError``, and
    ``NoMemoryError`` before anything of a window has changed the run: it may be taken again.
    """
    control.poll()
    if all_leave(job, control):
        return
    for window in job.batches.windows(state.step, job.total_steps):
        started = time.perf_counter()
        factor = job.schedule.factor(state.updates) * state.rate_factor
        rates = optimizers.set_rates(job.optimizer, factor)
        loss = backward(job, window, state.step)
        norm = update(job, state, loss)
        state.step += 1
        state.last_loss = loss
        control.poll()
        emit(
            StepDone(
                epoch=state.step / job.batches.plan.windows_per_epoch,
                loss=loss,
                learning_rates=rates,
                grad_norm=norm,
                skipped=state.skipped_in_a_row > 0,
                seconds=time.perf_counter() - started,
                examples=window.examples,
                memory_gib=memory_gib(job.precision.device),
            )
        )
        if all_leave(job, control):
            return


def all_leave(job: Job, control: Control) -> bool:
    """Whether all processes leave now: what was asked of one after they agreed waits for the next window."""
    agreed = job.group.agree(control.flags())
    control.take_over(agreed)
    return agreed["stop"] or agreed["finish"]


def backward(job: Job, window: Window, step: int) -> float:
    """Accumulates the window's gradient and returns its loss (the weighted mean, unscaled).

    Raises ``NoMemoryError`` in every process where any of them lacks memory; no gradient is left then.
    """
    import torch

    job.optimizer.zero_grad(set_to_none=True)
    totals = dict.fromkeys(job.objective.coefficients, 0.0)
    for batch in window.batches:
        for term, weight in job.objective.weights(batch).items():
            totals[term] += weight
    totals = job.group.total(totals)
    loss, short = torch.zeros((), device=job.precision.device), False
    try:
        accumulate(job, window, step, totals, loss)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        short = True  # the others must hear of it: they wait for this process's part
    summed, short = job.group.reduce(job.parameters.values(), loss, short)
    if short:
        job.optimizer.zero_grad(set_to_none=True)
        raise NoMemoryError
    return summed


def accumulate(job: Job, window: Window, step: int, totals: Mapping[str, float], loss: torch.Tensor) -> None:
    """Backpropagates each of the window's micro-batches and adds its part to ``loss`` in place."""
    import torch

    for micro, batch in zip(window.numbers, window.batches, strict=True):
        # dropout must depend on the step alone, or a resumed run would draw other masks
        torch.manual_seed(derive_seed(job.seed, "dropout", step, micro))
        with job.precision.autocast():
            sums = job.objective.sums(batch)
        terms = [
            job.objective.coefficients[term] * value / totals[term]
            for term, value in sums.items()
            if totals[term] > 0
        ]
        part = torch.stack(terms).sum()
        job.precision.scaler.scale(part).backward()
        loss += part.detach()


def update(job: Job, state: TrainingState, loss: float) -> float:
    """One optimizer step if loss and gradient are finite, else none. Returns the gradient's norm.

    Gradients stay in place, unscaled and clipped, for listeners to look at until the next window.
    """
    import torch

    scaler = job.precision.scaler
    scaler.unscale_(job.optimizer)
    parameters = list(job.parameters.values())
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, job.max_grad_norm, foreach=True))
    if math.isfinite(loss) and math.isfinite(norm):
        scaler.step(job.optimizer)
        state.updates += 1
        if job.average is not None:
            job.average.update(state.updates)
        state.skipped_in_a_row = 0
    else:
        state.skipped_in_a_row += 1
        state.skipped += 1
    scaler.update()
    return norm


def memory_gib(device: Any) -> float:
    """Peak memory of the card, or what the process holds on a machine without one, in GiB."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device) / 2**30
    import psutil

    return psutil.Process().memory_info().rss / 2**30
