"""What every stage of the base needs to run long and be interrupted: bars, averaged weights, saved state."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def track(total: int, label: str, start: int = 0) -> Iterator[tuple[int, dict[str, object]]]:
    """Yield (step, notes) with a bar and an estimate of the rest; what is put into `notes` is shown."""
    import sys
    import time

    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    notes: dict[str, object] = {}
    live = sys.stderr.isatty()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[notes]}"),
    )
    began, spoke = time.monotonic(), 0.0
    with Progress(*columns, console=Console(stderr=True), disable=not live) as progress:
        task = progress.add_task(label, total=total, completed=start, notes="")
        for step in range(start, total):
            yield step, notes
            said = " ".join(f"{key} {value}" for key, value in notes.items())
            progress.update(task, advance=1, notes=said)
            now = time.monotonic()
            # A log file gets a line now and then instead of a bar.
            if not live and (now - spoke > 20 or step + 1 == total):
                spoke = now
                left = (now - began) / (step + 1 - start) * (total - step - 1)
                print(f"{label} {step + 1}/{total} {said} left {left / 60:.1f} min", flush=True)


class Averaged:
    """Exponential moving average of a module's parameters, warmed up so that early steps do not linger."""

    def __init__(self, module: torch.nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {name: value.detach().clone() for name, value in module.state_dict().items()}

    def update(self, module: torch.nn.Module, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in module.state_dict().items():
            self.values[name].lerp_(value.detach().to(self.values[name].dtype), 1 - decay)


def cosine(step: int, total: int, warmup: int = 50, floor: float = 0.02) -> float:
    """Share of the learning rate at `step`: linear warm-up, then half a cosine down to `floor`."""
    if step < warmup:
        return (step + 1) / warmup
    share = (step - warmup) / max(1, total - warmup)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))


def save_state(
    path: Path, step: int, module: torch.nn.Module, averaged: Averaged, optimizer: torch.optim.Optimizer
) -> None:
    """Write weights, averages and Adam's moments to one safetensors file, replacing it whole."""
    import torch
    from safetensors.torch import save_file

    tensors = {f"live.{name}": value for name, value in module.state_dict().items()}
    tensors |= {f"mean.{name}": value for name, value in averaged.values.items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{index}.{key}": torch.as_tensor(value) for key, value in state.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(
        {key: value.contiguous().clone() for key, value in tensors.items()}, partial, {"step": str(step)}
    )
    partial.replace(path)


def load_state(
    path: Path, module: torch.nn.Module, averaged: Averaged, optimizer: torch.optim.Optimizer | None = None
) -> int:
    """Restore what `save_state` wrote; returns the number of finished steps, 0 without a file."""
    from safetensors import safe_open

    if not path.exists():
        return 0
    moments: dict[int, dict[str, torch.Tensor]] = {}
    live: dict[str, torch.Tensor] = {}
    with safe_open(path, "pt") as file:
        for key in file.keys():  # noqa: SIM118 - not a mapping
            kind, _, name = key.partition(".")
            if kind == "live":
                live[name] = file.get_tensor(key)
            elif kind == "mean":
                averaged.values[name] = file.get_tensor(key)
            else:
                index, _, field = name.partition(".")
                moments.setdefault(int(index), {})[field] = file.get_tensor(key)
        step = int(file.metadata()["step"])
    module.load_state_dict(live)
    if optimizer is not None:
        state = optimizer.state_dict()
        state["state"] = moments
        optimizer.load_state_dict(state)
    return step
