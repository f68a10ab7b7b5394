"""`make torture`: two workers at a time, a bar while they work, and a table of figures at the end.

Exit code 0 where nothing was lost, 1 otherwise. With ``--plant`` the program is broken on purpose, and the
exit code is 0 where that was found.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
WORKERS = 2
PLANTED = ("no-fsync", "unchecked-manifest")
DISK_PARTS = 18
"""Lines that ``tests.torture.disk`` reports: three faults of five saves, and three checkpoints damaged."""

Take = Callable[[dict[str, Any]], None]


@dataclass
class Tally:
    """The figures so far."""

    kills: Counter[str] = field(default_factory=Counter)
    tasks: Counter[str] = field(default_factory=Counter)
    phases: Counter[str] = field(default_factory=Counter)
    runs: Counter[str] = field(default_factory=Counter)
    faults: dict[str, list[int]] = field(default_factory=dict)
    files: int = 0
    unequal: int = 0
    damaged: int = 0
    unnoticed: int = 0
    lost: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def take(self, line: dict[str, Any]) -> None:
        getattr(self, f"_{line.pop('kind')}")(**line)

    def _ready(self, threads: int) -> None:
        if threads != 1:
            self.failures.append(f"the warmed parent has {threads} threads: its children may hang")

    def _kill(self, how: str, task: str, options: str, phase: str) -> None:
        self.kills[how] += 1
        self.tasks[task] += 1
        self.phases[phase] += 1

    def _run(self, task: str, options: str, kills: int, files: int, unequal: list[str]) -> None:
        self.runs[f"{task}, {options}"] += 1
        self.files += files
        self.unequal += len(unequal)

    def _lost(self, what: str) -> None:
        self.lost.append(what)

    def _damage(self, noticed: bool, what: str) -> None:
        self.damaged += 1
        if not noticed:
            self.unnoticed += 1
            self.failures.append(f"not noticed: {what}")

    def _fault(self, fault: str, points: int, failures: list[str], failed: int) -> None:
        before = self.faults.setdefault(fault, [0, 0])
        self.faults[fault] = [before[0] + points, before[1] + failed]
        self.failures += failures

    def _failure(self, what: str) -> None:
        self.failures.append(what)

    @property
    def bad(self) -> list[str]:
        return [f"checkpoint lost: {what}" for what in self.lost] + self.failures

    @property
    def done(self) -> int:
        return sum(self.kills.values())


def workers(options: argparse.Namespace) -> list[list[str]]:
    """The commands to be run, two at a time."""
    plant = ["--plant", options.plant] if options.plant else []
    found = [["tests.torture.disk", *plant]]
    for at in range(WORKERS):
        alone, forked = _part(options.fresh, at), _part(options.kills - options.fresh, at)
        if not alone + forked:
            continue
        words = ["--share", f"{at}/{WORKERS}", "--seed", str(options.seed)]
        found.append(["tests.torture.kills", "--kills", str(forked), "--fresh", str(alone), *words, *plant])
    return found


def _part(total: int, at: int) -> int:
    return total // WORKERS + (at < total % WORKERS)


def together(
    commands: list[list[str]], folder: Path, take: Callable[[dict[str, Any]], None]
) -> Iterator[str]:
    """Runs the commands, two at a time, and hands on what they say; yields what went wrong with them."""
    waiting, running = list(commands), []
    try:
        while waiting or running:
            while waiting and len(running) < WORKERS:
                running.append(_Started(waiting.pop(0), folder / f"worker-{len(waiting)}"))
            for worker in list(running):
                ended = worker.process.poll() is not None
                for line in worker.lines():
                    take(line)
                if ended:
                    running.remove(worker)
                    if worker.process.returncode:
                        yield worker.ending()
            time.sleep(0.2)
    finally:
        for worker in running:
            worker.process.terminate()


class _Started:
    """A worker, and the files that it writes to."""

    def __init__(self, words: list[str], place: Path) -> None:
        self.words = words
        self.out, self.err = place.with_suffix(".out"), place.with_suffix(".err")
        self.seen = 0
        with open(self.out, "wb") as out, open(self.err, "wb") as err:
            self.process = subprocess.Popen([sys.executable, "-m", *words], cwd=ROOT, stdout=out, stderr=err)

    def lines(self) -> list[dict[str, Any]]:
        data = self.out.read_bytes()[self.seen :]
        whole = data[: data.rfind(b"\n") + 1]
        self.seen += len(whole)
        return [json.loads(line) for line in whole.splitlines() if line.startswith(b"{")]

    def ending(self) -> str:
        tail = self.err.read_text(encoding="utf-8", errors="replace")[-2000:]
        return f"{' '.join(self.words)} ended with {self.process.returncode}: {tail}"


def figures(tally: Tally, seed: int, seconds: float) -> dict[str, Any]:
    """What ``result.json`` holds."""
    return {
        "seed": seed, "seconds": round(seconds), "kills": tally.done, "kills_by_process": dict(tally.kills),
        "kills_by_task": dict(tally.tasks), "kills_by_phase": dict(tally.phases), "runs": dict(tally.runs),
        "checkpoints_lost": len(tally.lost), "files_compared": tally.files, "files_unequal": tally.unequal,
        "damaged": tally.damaged, "damaged_unnoticed": tally.unnoticed,
        "faults": {name: {"points": each[0], "failed": each[1]} for name, each in tally.faults.items()},
        "failures": tally.bad,
    }  # fmt: skip


def table(found: dict[str, Any]) -> Table:
    made = Table("what", "figure", title=f"make torture (seed {found['seed']})")
    rows = {
        "kills": found["kills"],
        "  by process": _counted(found["kills_by_process"]),
        "  by task": _counted(found["kills_by_task"]),
        "  by phase": _counted(found["kills_by_phase"]),
        "runs finished": sum(found["runs"].values()),
        "files compared": found["files_compared"],
        "files unequal": found["files_unequal"],
        "checkpoints lost": found["checkpoints_lost"],
        "checkpoints damaged, unnoticed": f"{found['damaged']}, {found['damaged_unnoticed']}",
    }
    rows |= {
        f"{name}: points, failed": f"{each['points']}, {each['failed']}"
        for name, each in found["faults"].items()
    }
    for name, figure in {**rows, "failures": len(found["failures"]), "seconds": found["seconds"]}.items():
        made.add_row(name, str(figure))
    return made


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items(), key=lambda pair: -pair[1]))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--kills", type=int, help="how many, default 200; none with --plant")
    parser.add_argument(
        "--fresh", type=int, help="how many of them in processes of their own, default a fifth"
    )
    parser.add_argument("--seed", type=int, default=int(time.time()), help="repeats the same choices")
    parser.add_argument("--output", type=Path, default=ROOT / "output" / "torture")
    parser.add_argument(
        "--plant", choices=PLANTED, help="breaks the program; exit code 0 where that is found"
    )
    options = parser.parse_args()
    options.kills = options.kills if options.kills is not None else 0 if options.plant else 200
    options.fresh = options.fresh if options.fresh is not None else 0 if options.plant else options.kills // 5
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console()
    console.print(f"seed {options.seed}: {options.kills} kills, {options.fresh} of them in fresh processes")
    tally, started = Tally(), time.monotonic()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("torture", total=options.kills + DISK_PARTS)

        def take(line: dict[str, Any]) -> None:
            if line["kind"] in ("kill", "fault"):
                bar.advance(task)
            tally.take(line)

        with tempfile.TemporaryDirectory(prefix="torture-") as folder:
            try:
                for failure in together(workers(options), Path(folder), take):
                    tally.failures.append(failure)
            except KeyboardInterrupt:
                tally.failures.append("interrupted: the figures are of what was done")
    found = figures(tally, options.seed, time.monotonic() - started)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "result.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    console.print(table(found))
    for line in found["failures"][:20]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(f"{options.output / 'result.json'}", soft_wrap=True)
    if options.plant:
        console.print(f"planted {options.plant}: {'found' if told_of(found) else 'NOT FOUND'}")
        return int(not told_of(found))
    return int(bool(found["failures"]))


def told_of(found: dict[str, Any]) -> bool:
    """Whether the program was seen to lose something: a worker that broke down says nothing of it."""
    lost = found["checkpoints_lost"] + found["files_unequal"] + found["damaged_unnoticed"]
    return bool(lost or any(each["failed"] for each in found["faults"].values()))


if __name__ == "__main__":
    sys.exit(main())
