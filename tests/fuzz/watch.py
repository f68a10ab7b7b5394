"""Cases in two processes of their own: each may hang, grow or die without taking the others along."""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import shutil
import socket
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

PATIENCE = 20.0
"""Seconds of computing that one input may take."""
STANDING = 90.0
"""Seconds by the clock, on a machine that others use too, after which one that computes nothing hangs."""
MEMORY = 10**9
"""Bytes that a process may hold."""
START = 120.0
"""Seconds in which a worker has to have imported everything."""
NOT_SHOWN = (DeprecationWarning, PendingDeprecationWarning, FutureWarning, ResourceWarning, ImportWarning)
"""Warnings for programmers."""
WORKERS = 2


@dataclass(frozen=True)
class Failure:
    """``kind`` and ``number`` make the input again; ``what``: one line; ``detail``: the traceback."""

    kind: str
    number: int
    what: str
    detail: str = ""

    @property
    def signature(self) -> str:
        """The same for failures that are one: what happened, without the figures in it."""
        return "".join(char for char in self.what if not char.isdigit())[:70]


@dataclass
class Tally:
    """What came of the cases of one kind. ``said``: code -> how often; ``peak``: bytes that a worker
    held, ``slowest``: seconds of computing, each with the number of the case;
    ``computed``: seconds of all."""

    done: int = 0
    refused: int = 0
    said: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)
    slowest: tuple[float, int] = (0.0, -1)
    peak: tuple[int, int] = (0, -1)
    computed: float = 0.0

    def add(self, other: Tally) -> None:
        self.done += other.done
        self.refused += other.refused
        self.said.update(other.said)
        self.failures += other.failures
        self.slowest = max(self.slowest, other.slowest)
        self.peak = max(self.peak, other.peak)
        self.computed += other.computed


def alone() -> None:
    """No network, one thread, English, and crash notes where they can be found."""

    def refuse(*_: Any) -> None:
        raise OSError("no network in a fuzz run")

    socket.socket.connect = refuse  # type: ignore[method-assign,assignment]
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "OMP_NUM_THREADS"):
        os.environ[name] = "1"
    os.environ["LORA_SCRIPTS_LANG"] = "en"


def peak() -> int:
    """Bytes: the most that this process has held since ``forget_peak``."""
    with contextlib.suppress(OSError, StopIteration):
        line = next(
            row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith("VmHWM")
        )
        return int(line.split()[1]) * 1024
    import psutil

    return psutil.Process().memory_info().rss


def forget_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder of its own, which is the working folder meanwhile: what a file makes the product write is
    found there."""
    place = Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        with contextlib.chdir(place):
            yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


@contextlib.contextmanager
def overheard() -> Iterator[Callable[[], str]]:
    """What is written past Python straight to the process's stderr, as libraries in C do."""
    with tempfile.TemporaryFile() as heard:
        kept = os.dup(2)
        os.dup2(heard.fileno(), 2)

        def words() -> str:
            return os.pread(heard.fileno(), 300, 0).decode("utf-8", "replace")

        try:
            yield words
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def try_one(kind: Any, seed: int, number: int) -> tuple[list[str], Failure | None]:
    """The codes that were said, and what was wrong with it."""
    from .case import WrongAnswerError, case_of

    case = case_of(kind, seed, number)
    with scratch() as folder, overheard() as words, warnings.catch_warnings(record=True) as warned:
        try:
            said = [problem.code for problem in kind.run(case, folder)]
            for each in warned:
                if not issubclass(each.category, NOT_SHOWN):
                    raise WrongAnswerError(
                        f"a library's warning: {each.category.__name__}: {each.message}"[:300]
                    )
            if words():
                raise WrongAnswerError(f"written past us: {words()!r}")
            return said, None
        except WrongAnswerError as error:
            return [], Failure(kind.NAME, number, str(error))
        except Exception as error:
            text = traceback.format_exc()
            frames = [
                frame
                for frame in traceback.extract_tb(error.__traceback__)
                if "lora_scripts" in frame.filename
            ]
            at = f" at {Path(frames[-1].filename).name} in {frames[-1].name}" if frames else ""
            return [], Failure(kind.NAME, number, f"{type(error).__name__}{at}: {error}"[:300], text)


def _work(
    kind_name: str, seed: int, numbers: range, plant: str | None, place: Any, since: Any, pipe: Connection
) -> None:
    alone()
    kind = importlib.import_module(f"tests.fuzz.{kind_name}")
    if plant:
        from .plants import PLANTS

        PLANTS[plant].sow()
    try_one(kind, seed, 0)  # what is imported and made once is not the first case's
    for number in numbers:
        tally = Tally()
        place.value, since.value = number, time.monotonic()
        began = time.process_time()
        forget_peak()
        said, failure = try_one(kind, seed, number)
        took = time.process_time() - began
        tally.computed += took
        tally.slowest = max(tally.slowest, (took, number))
        held = peak()
        tally.peak = max(tally.peak, (held, number))
        if failure is None and held > MEMORY:
            failure = Failure(kind_name, number, f"memory: {held / 1e6:.0f} MB held")
        tally.done += 1
        tally.refused += bool(said)
        tally.said.update(said)
        tally.failures += [failure] if failure else []
        pipe.send(tally)
        if held > MEMORY:
            return  # a fresh process measures the next one
    since.value = 0.0


@dataclass
class _Worker:
    kind: str
    seed: int
    numbers: range
    plant: str | None
    process: Any = None
    pipe: Any = None
    place: Any = None
    since: Any = None
    at: tuple[int, float] = (-1, 0.0)
    computed: float = 0.0

    def start(self, numbers: range) -> None:
        context = multiprocessing.get_context("spawn")
        self.numbers = numbers
        self.place = context.Value("q", numbers.start, lock=False)
        self.since = context.Value("d", time.monotonic() + START, lock=False)
        self.pipe, theirs = context.Pipe(duplex=False)
        arguments = (self.kind, self.seed, numbers, self.plant, self.place, self.since, theirs)
        self.process = context.Process(target=_work, args=arguments, daemon=True)
        self.process.start()
        theirs.close()

    def rest(self) -> range:
        """What is left after the case in hand."""
        return range(self.place.value + self.numbers.step, self.numbers.stop, self.numbers.step)


def watch(
    kind: str, seed: int, count: int, plant: str | None, told: Callable[[Tally], None], first: int = 0
) -> Tally:
    """Runs ``count`` cases from number ``first``. ``told`` gets the tally as it grows."""
    total = Tally()
    workers = [_Worker(kind, seed, range(first + n, first + count, WORKERS), plant) for n in range(WORKERS)]
    for worker in workers:
        worker.start(worker.numbers)
    waiting = list(workers)
    while waiting:
        time.sleep(0.05)
        for worker in list(waiting):
            _take(worker, total)
            ended = not worker.process.is_alive()
            if ended:
                _take(worker, total)
            wrong = _ended(worker) if ended else _stuck(worker)
            if wrong:
                total.done += 1
                total.failures.append(Failure(kind, worker.place.value, wrong))
            if wrong or (ended and worker.since.value):
                left = worker.rest()
                worker.start(left) if left else waiting.remove(worker)
            elif ended:
                waiting.remove(worker)
        told(total)
    return total


def _take(worker: _Worker, total: Tally) -> None:
    with contextlib.suppress(EOFError, OSError):
        while worker.pipe.poll():
            total.add(worker.pipe.recv())


def _ended(worker: _Worker) -> str | None:
    code = worker.process.exitcode
    return f"death: the process ended with {code}" if code else None


def _stuck(worker: _Worker) -> str | None:
    """Kills a worker that hangs or grows, and says so."""
    import psutil

    try:
        process = psutil.Process(worker.process.pid)
        computed, held = sum(process.cpu_times()[:2]), process.memory_info().rss
    except psutil.NoSuchProcess:
        return None
    here = (worker.place.value, worker.since.value)
    if worker.at != here:
        worker.at, worker.computed = here, computed
    lasted = time.monotonic() - worker.since.value if worker.since.value else 0.0
    if computed - worker.computed > PATIENCE and lasted > PATIENCE:
        wrong = f"hang: more than {PATIENCE:.0f} s of computing"
    elif lasted > STANDING:
        wrong = f"hang: more than {STANDING:.0f} s"
    elif held > 2 * MEMORY:  # below that the worker itself says it, with the exact figure
        wrong = f"memory: {held / 1e6:.0f} MB held"
    else:
        return None
    worker.process.kill()
    worker.process.join()
    return wrong
