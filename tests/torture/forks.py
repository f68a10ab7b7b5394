"""Children of one warmed parent: everything is imported, no thread has been started, a run begins at once.

What is computed, the warming itself too, is computed in children, so that the parent stays fit for forking.
A child carries out the command line's own entry and tells through a pipe which phase it is in.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

PREPARING, CACHE, LOADING, STEPS, VALIDATION, CHECKPOINT, PRUNING, EXPORT, LAST_EXPORT, RESULT = PHASES = (
    "checking", "caching", "loading", "training", "validation", "checkpoint", "pruning", "export",
    "last export", "result",
)  # fmt: skip
MARKED = (
    ("training.stages:CachedStages.fill", CACHE),
    ("preflight.checks.text_table:write_table", CACHE),
    ("training.execute:open_session", LOADING),
    ("training.recovery:fit", STEPS),
    ("training.callbacks.validation:Evaluator.measure", VALIDATION),
    ("training.checkpoint:CheckpointStore.save", CHECKPOINT),
    ("training.checkpoint:CheckpointStore._prune", PRUNING),
    *(
        (f"training.{task}_exports:{task.title()}Exports.{verb}", EXPORT)
        for task in ("image", "text")
        for verb in ("write", "keep_best", "prune")
    ),
    ("training.image_exports:ImageExports.finish", LAST_EXPORT),
    ("training.text_exports:TextExports.finish", LAST_EXPORT),
    ("training.records:write_result", RESULT),
)  # fmt: skip
"""Where a phase begins and ends: a function of the product."""
SECONDS = 300


@dataclass(frozen=True)
class Moment:
    """When a run is killed: ``seconds`` after its start, or after the ``nth`` beginning of ``phase``."""

    seconds: float
    phase: str | None = None
    nth: int = 1


@dataclass(frozen=True)
class Outcome:
    """``code``: None of a killed run. ``phase``: where it was then. ``said``: its output."""

    code: int | None
    phase: str
    seconds: float
    said: str


def in_child(work: Callable[[], object], log: Path | None = None) -> int:
    """Starts ``work`` in a child and returns its process number. The child exits with what ``work`` returns
    if that is a number, and 1 where it raises."""
    sys.stdout.flush()
    sys.stderr.flush()
    # Opened before the fork: a child may be killed before its first statement.
    handle = None if log is None else os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    child = os.fork()
    if not child:
        _work(work, handle)
    if handle is not None:
        os.close(handle)
    return child


def _work(work: Callable[[], object], handle: int | None) -> NoReturn:
    code = 1
    try:
        if handle is not None:
            os.dup2(handle, 1)
            os.dup2(handle, 2)
        done = work()
        code = done if isinstance(done, int) else 0
    except BaseException:  # a child must never return into its parent's program
        traceback.print_exc()
    finally:
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def wait(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def command(words: Sequence[str], folder: Path) -> int:
    """The command line, carried out in this process."""
    import torch

    from lora_scripts.cli.main import run

    torch.set_num_threads(1)
    os.chdir(folder)
    return run(list(words))


def warm_up(runs: Callable[[], Sequence[tuple[Sequence[str], Path]]], note: Path) -> None:
    """Imports here what command lines import. ``runs`` makes them ready; a child of ours carries them out."""
    for name in ("torch", "peft", "bitsandbytes", "diffusers.pipelines.stable_diffusion", "transformers"):
        import_module(name)

    def work() -> int:
        codes = [command(words, folder) for words, folder in runs()]
        note.write_text("\n".join(sorted(sys.modules)))
        return max(codes)

    log = note.with_suffix(".log")
    if wait(in_child(work, log)):
        raise RuntimeError(f"warming up failed:\n{log.read_text()}")
    for name in note.read_text().split("\n"):
        if name not in sys.modules and not name.startswith("__") and "onnx" not in name:  # it starts a thread
            with suppress(Exception):  # what no import statement made cannot be imported
                import_module(name)


def threads() -> int:
    """Threads of this process, as the system counts them."""
    return len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 1


def run(words: Sequence[str], folder: Path, moment: Moment | None, plant: Callable[[], None]) -> Outcome:
    """One command line in a child, killed at ``moment`` unless it ends before."""
    log = folder / "said.txt"
    ear, mouth = os.pipe()

    def work() -> int:
        os.close(ear)
        plant()
        mark_phases(mouth)
        return command(words, folder)

    started = time.monotonic()
    child = in_child(work, log)
    os.close(mouth)
    heard = _listen(child, ear, started, moment)
    code = wait(child)
    seconds = time.monotonic() - started
    while more := os.read(ear, 4096):
        heard += more
    os.close(ear)
    phase = PHASES[heard[-1]] if heard else PREPARING
    said = log.read_text(encoding="utf-8", errors="replace")
    return Outcome(None if code == -signal.SIGKILL else code, phase, seconds, said)


def _listen(child: int, ear: int, started: float, moment: Moment | None) -> bytes:
    """Hears what phase the child is in until it ends or its moment has come."""
    heard, left = b"", moment.nth if moment else 0
    while True:
        due = SECONDS if moment is None or moment.phase else moment.seconds
        ready, _, _ = select.select([ear], [], [], max(0.0, started + due - time.monotonic()))
        if not ready:
            os.kill(child, signal.SIGKILL)
            return heard
        more = os.read(ear, 1)
        if not more:
            return heard
        heard += more
        if moment is not None and PHASES[more[0]] == moment.phase:
            left -= 1
            if left == 0:
                time.sleep(moment.seconds)
                os.kill(child, signal.SIGKILL)
                return heard


def mark_phases(mouth: int) -> None:
    """Makes the product tell, by one byte, which phase it goes into and back to."""
    inside = [PREPARING]

    def marked(function: Callable[..., Any], phase: str) -> Callable[..., Any]:
        @wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            inside.append(phase)
            os.write(mouth, bytes([PHASES.index(phase)]))
            try:
                return function(*arguments, **options)
            finally:
                inside.pop()
                os.write(mouth, bytes([PHASES.index(inside[-1])]))

        return call

    for place, phase in MARKED:
        module, _, name = place.partition(":")
        owner: Any = import_module(f"lora_scripts.{module}")
        *outer, last = name.split(".")
        for part in outer:
            owner = getattr(owner, part)
        setattr(owner, last, marked(getattr(owner, last), phase))
