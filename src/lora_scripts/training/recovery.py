"""Goes on after what would end a run: back to where it was sound, or the same window in smaller parts.

Every process of a run decides alike; the first one alone saves and speaks.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lora_scripts.core.catalogue import render
from lora_scripts.core.control import Control
from lora_scripts.core.events import Emit, Noted, RolledBack
from lora_scripts.core.problems import Problem
from lora_scripts.core.seeds import derive_seed

from .callbacks.guard import DivergedError
from .checkpoint import CheckpointStore
from .failures import NoMemoryError, UnreadableError, is_out_of_memory
from .loop import Job, fit
from .session import Session, put_back
from .state import TrainingState

if TYPE_CHECKING:
    from lora_scripts.families._base import Batch

    from .callbacks.saving import Saving

MOST_ROLLBACKS = 2
UNPROBED = ("cpu",)
"""Devices whose memory is the machine's: it is rather filled by others than refused, and a probe there costs
as much as a step."""
STATES = 2
"""Values that optimizers keep for each one that is trained."""


class Recovery:
    """Trains to the end. ``saving`` is the first process's, None in the others."""

    def __init__(
        self,
        session: Session,
        state: TrainingState,
        store: CheckpointStore,
        control: Control,
        emit: Emit,
        saving: Saving | None = None,
    ) -> None:
        self.session = session
        self.state = state
        self.store = store
        self.control = control
        self.emit = emit
        self.saving = saving

    def train(self) -> None:
        """Returns when the run is done or asked to leave. Raises what it cannot go on after:
        ``DivergedError`` after two rollbacks, ``NoMemoryError`` with one example at a time, and all that is
        not its own."""
        self._probe()
        while True:
            self._arrange()
            diverged = None
            try:
                fit(self.session.job, self.state, self.emit, self.control)
                return
            except DivergedError as error:
                if len(self.state.rollbacks) >= MOST_ROLLBACKS:
                    raise
                diverged = error.with_traceback(None)  # whose frames hold a window
            except NoMemoryError:
                pass
            except UnreadableError:
                self._save()
                raise
            if diverged is not None:
                self._roll_back(diverged)
            else:
                self._shrink(self.session.batches.largest(self.state.step))

    def _arrange(self) -> None:
        """What is drawn after a rollback is not what was drawn before it, nor does it come in that order;
        both depend on the state alone, so that a resumed run draws the same."""
        state, job, batches = self.state, self.session.job, self.session.batches
        seed = self.session.config.seed
        if state.rollbacks:
            seed = derive_seed(seed, "rollback", len(state.rollbacks))
        job.seed = batches.seed = seed
        batches.restarts, batches.micro_batch = tuple(state.rollbacks), self._micro_batch

    @property
    def _micro_batch(self) -> int:
        """Examples computed at once: what is asked for, less where memory holds no more. The plan's own ones
        are larger where a run began with a larger ``batch_size`` of the same windows."""
        asked = self.session.config.batch_size
        return min(asked, self.state.micro_batch or asked)

    def _roll_back(self, error: DivergedError) -> None:
        """To the newest checkpoint from before it went wrong, else to the start."""
        state, session = self.state, self.session
        before = state.step
        found = None if self.saving is None else self.store.way_back(error.since, state.rollbacks)
        step = session.job.group.from_main(found or 0)
        snapshot = self.store.load(step) if step else session.start
        kept = {
            "rollbacks": [*state.rollbacks, step],
            "micro_batch": state.micro_batch,
            "skipped": state.skipped,
            "loss_before": state.loss_before,
            "metrics_before": state.metrics_before,
        }
        state.restore(snapshot.state["training"])
        for name, value in kept.items():
            setattr(state, name, value)
        put_back(session, snapshot)
        self.emit(
            RolledBack(
                cause=error.cause,
                windows=error.count,
                from_step=before,
                to_step=step,
                rate_factor=state.rate_factor,
                examples=error.examples,
            )
        )

    def _shrink(self, largest: int) -> None:
        """Halves the micro-batch, saves, and says so. ``largest``: examples in the one that did not fit."""
        if largest == 1:
            self._save()
            raise NoMemoryError
        state, plan = self.state, self.session.batches.plan
        before, state.micro_batch = self._micro_batch, largest // 2
        self._free()
        self._save()
        told = {
            "step": state.step + 1,
            "before": before,
            "now": state.micro_batch,
            "before_steps": math.ceil(plan.window_size / before),
            "now_steps": math.ceil(plan.window_size / state.micro_batch),
        }
        problem = Problem("LS3902", told, severity="warning")
        self.emit(Noted(code=problem.code, text=render(problem)))

    def _save(self) -> None:
        if self.saving is not None and self.state.step:
            self.saving.save(self.state.step)

    def _free(self) -> None:
        if self.session.job.precision.device.type == "cuda":
            import torch

            torch.cuda.empty_cache()

    def _probe(self) -> None:
        """Tries the largest micro-batch on a card before the first window, until it fits."""
        job, batches = self.session.job, self.session.batches
        if job.precision.device.type in UNPROBED or self.state.step >= job.total_steps:
            return
        while True:
            self._arrange()
            batch, size = batches.heaviest(self.state.step)
            if not job.group.agree({"short": not fits(job, batch)})["short"]:
                return
            self._shrink(size)


def fits(job: Job, batch: Batch) -> bool:
    """Whether memory holds a forward and backward pass of a micro-batch, beside the optimizer's state."""
    import torch

    try:
        held = [] if job.optimizer.state else [p for p in job.parameters.values() for _ in range(STATES)]
        room = [torch.empty_like(parameter, requires_grad=False) for parameter in held]
        with job.precision.autocast():
            sums = job.objective.sums(batch)
        torch.stack(list(sums.values())).sum().backward()
        del room
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    finally:
        job.optimizer.zero_grad(set_to_none=True)
    return True
