"""Several processes as one run: what they sum, what they agree on, who writes.

Every process holds the same adapter and takes its share of each window's micro-batches. Sums of weights,
gradients and losses are added up, so that two processes take the step that one would have taken.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

PATIENCE = timedelta(days=7)
"""The first process may validate, draw, or be paused for long while the others wait for it."""


@dataclass(frozen=True)
class Group:
    """``rank`` of ``size`` processes. The first one, ``main``, alone writes the run's folder."""

    rank: int = 0
    size: int = 1
    device: Any = None

    @property
    def main(self) -> bool:
        return self.rank == 0

    def share(self, things: Iterable[Any]) -> list[tuple[int, Any]]:
        """This process's part of ``things``, each with its position in the whole."""
        return [pair for pair in enumerate(things) if pair[0] % self.size == self.rank]

    def total(self, weights: Mapping[str, float]) -> dict[str, float]:
        """Sums over all processes; every one must name the same keys."""
        if self.size == 1:
            return dict(weights)
        values = self._summed(list(weights.values()), "float64")
        return dict(zip(weights, values.tolist(), strict=True))

    def reduce(
        self, parameters: Iterable[torch.nn.Parameter], loss: torch.Tensor, failed: bool
    ) -> tuple[float, bool]:
        """Adds up gradients in one flat float32 buffer, a missing one as zeros. Returns the summed loss, and
        whether any process has ``failed`` to compute its part: nothing of the sums is then of use."""
        if self.size == 1:
            return float(loss), failed
        import torch

        held = list(parameters)
        parts = [
            torch.zeros(p.numel(), device=p.device) if p.grad is None else p.grad.detach().float().flatten()
            for p in held
        ]
        told = loss.detach().float().reshape(1)
        flat = torch.cat([*parts, told, torch.full_like(told, float(failed))])
        torch.distributed.all_reduce(flat)
        start = 0
        for parameter in held:
            stop = start + parameter.numel()
            parameter.grad = flat[start:stop].view_as(parameter).to(parameter.dtype)
            start = stop
        summed, failures = flat[-2:].tolist()
        return summed, failures > 0

    def agree(self, flags: Mapping[str, bool]) -> dict[str, bool]:
        """What any process asks for, all of them know."""
        if self.size == 1:
            return dict(flags)
        values = self._summed([float(flag) for flag in flags.values()], "float32")
        return {name: value > 0 for name, value in zip(flags, values.tolist(), strict=True)}

    def from_main(self, number: int) -> int:
        """The first process's ``number``, to all of them."""
        if self.size == 1:
            return number
        return int(self._summed([float(number) if self.main else 0.0], "float64").item())

    def wait(self) -> None:
        """Until every process has come here."""
        if self.size > 1:
            self._summed([0.0], "float32")

    def _summed(self, values: list[float], dtype: str) -> torch.Tensor:
        import torch

        tensor = torch.tensor(values, dtype=getattr(torch, dtype), device=self.device)
        torch.distributed.all_reduce(tensor)
        return tensor

    def leave(self) -> None:
        if self.size > 1:
            import torch

            torch.distributed.destroy_process_group()


def is_launched() -> bool:
    """Whether a launcher (ours, ``torchrun``, ``accelerate launch``) has made this one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def join() -> Group:
    """The group that the launcher's environment describes; one process alone without any."""
    if not is_launched():
        return Group()
    import torch

    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", rank)))
    torch.distributed.init_process_group("nccl" if cuda else "gloo", timeout=PATIENCE)
    device = torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
    return Group(rank, size, device)
