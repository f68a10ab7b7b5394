"""A progress bar with time left for what a command does before it can say anything else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lora_scripts.core.catalogue import say

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

LINE_SECONDS = 30.0


@contextmanager
def phase_bar(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """Yields ``progress(phase, done, total)``; in no terminal nothing is drawn."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks: dict[str, TaskID] = {}

        def progress(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                tasks[phase] = bar.add_task(say(f"phase.{phase}"), total=total)
            bar.update(tasks[phase], completed=done, total=total)

        yield progress


@contextmanager
def rate_bar(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """Yields ``progress(phase, done, total)`` for pictures: a bar with how many a second and the time left;
    in no terminal a line every half minute."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    rate = TextColumn("{task.fields[rate]}")
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        rate,
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks: dict[str, TaskID] = {}
        began: dict[str, float] = {}
        said = time.monotonic()

        def progress(phase: str, done: int, total: int) -> None:
            nonlocal said
            now = time.monotonic()
            if phase not in tasks:
                tasks[phase] = bar.add_task(say(f"phase.{phase}"), total=total, rate="")
                began[phase] = now
            speed = done / (now - began[phase]) if now > began[phase] else 0.0
            shown = f"{speed:.1f}" if speed else "…"
            bar.update(tasks[phase], completed=done, total=total, rate=say("label.rate", rate=shown))
            if not console.is_terminal and now - said > LINE_SECONDS and done < total:
                said = now
                left = f"{(total - done) / speed / 60:.1f} min" if speed else "…"
                console.print(say("label.line", done=done, total=total, rate=shown, left=left), markup=False)

        yield progress
