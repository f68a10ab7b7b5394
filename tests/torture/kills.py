"""Runs killed at random moments and resumed until they are finished: a worker of `make torture`.

`python -m tests.torture.kills --kills 20` prints one JSON object a line: each kill, each finished run, each
failure. A finished run must have the bytes of one that nobody disturbed; on the way no whole checkpoint may
be lost; and where the newest one is damaged, that must be said and the one before used.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.contract.conftest import ROOT, Desk, environment

from . import forks, runs
from .forks import Moment, Outcome
from .plants import PLANTS

WORDS = ("train", "--config", "run.yaml")
SETTINGS = {
    **{key: environment()[key] for key in ("HF_ENDPOINT", "HTTP_PROXY", "HTTPS_PROXY", "LORA_SCRIPTS_LANG")},
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
}
"""No hub, English, and no thread in a parent that is to fork: set before anything heavy is imported."""
DAMAGED = 0.15
"""How often, after a kill, a checkpoint is damaged too."""
AIMED = {
    forks.PREPARING: 1, forks.CACHE: 2, forks.LOADING: 1, forks.STEPS: 2, forks.VALIDATION: 2,
    forks.CHECKPOINT: 5, forks.PRUNING: 3, forks.EXPORT: 5, forks.LAST_EXPORT: 3, forks.RESULT: 2,
}  # fmt: skip
"""How often a phase is aimed at, among the kills that are aimed; half of all are not."""


def tell(kind: str, **facts: object) -> None:
    print(json.dumps({"kind": kind, **facts}, ensure_ascii=False), flush=True)


@dataclass
class Straight:
    """What a run leaves that nobody disturbed, how long it took, and the bytes of its event log."""

    files: Mapping[str, bytes]
    seconds: float
    events: int


@dataclass
class Worker:
    """``kills``: how many to come in children, ``fresh``: in processes of their own."""

    makers: runs.Makers
    chance: random.Random
    kills: int
    fresh: int
    plant: str | None
    per_run: int
    straight: dict[runs.Kind, Straight] = field(default_factory=dict)

    def attempt(self, desk: Desk, moment: Moment | None) -> Outcome:
        plant = PLANTS[self.plant].into_product if self.plant else lambda: None
        return forks.run(WORDS, desk.root, moment, plant)

    def undisturbed(self, kind: runs.Kind) -> Straight:
        if kind not in self.straight:
            desk = self.makers.desk(kind)
            done = self.attempt(desk, None)
            if done.code != 0:
                raise RuntimeError(f"{kind}: the undisturbed run failed ({done.code}):\n{done.said[-3000:]}")
            self.straight[kind] = Straight(runs.results(desk), done.seconds, runs.logged(desk))
        return self.straight[kind]

    def moment(self, kind: runs.Kind) -> Moment:
        """Any moment of the run, or one within a phase that is short."""
        if self.chance.random() < 0.5:
            return Moment(self.chance.uniform(0.0, self.straight[kind].seconds))
        phase = self.chance.choices(list(AIMED), list(AIMED.values()))[0]
        if phase == forks.PREPARING:
            return Moment(self.chance.uniform(0.0, 0.2))
        return Moment(self.chance.choice((0.0, 0.001, 0.003, 0.01, 0.03)), phase, self.chance.randint(1, 4))

    def torture(self, kind: runs.Kind) -> None:
        """One run from its start to its end."""
        straight = self.undisturbed(kind)
        desk, killed = self.makers.desk(kind), 0
        planned = self.chance.randint(self.per_run - 4, self.per_run + 4)
        fresh = self.fresh > 0
        while not runs.finished(desk):
            left = self.fresh if fresh else self.kills
            harm = self._harm(desk) if killed else None
            before = {at: path for at, path in runs.checkpoints(desk).items() if path.name != _harmed(harm)}
            moment = self.moment(kind) if killed < planned and left > 0 else None
            if harm:
                moment = moment and Moment(0.002, forks.CHECKPOINT)
            alone = fresh and not harm
            outcome = self._fresh(kind, desk, moment) if alone else self.attempt(desk, moment)
            self._judge(kind, desk, before, outcome, harm)
            if outcome.code is None and moment is not None:
                killed += 1
                self.fresh -= alone
                self.kills -= not alone
                how = "fresh process" if alone else "forked child"
                tell("kill", how=how, task=kind.task, options=kind.options, phase=outcome.phase)
            elif outcome.code != 0:
                tail = outcome.said[-1500:]
                tell("failure", what=f"{kind}: exit code {outcome.code} in {desk.root}\n{tail}")
                return
        self._compare(kind, desk, straight, killed)

    def _harm(self, desk: Desk) -> str | None:
        if len(runs.checkpoints(desk)) < 2 or self.chance.random() >= DAMAGED:
            return None
        return runs.damage(desk, self.chance)

    def _judge(
        self, kind: runs.Kind, desk: Desk, before: Mapping[int, Path], outcome: Outcome, harm: str | None
    ) -> None:
        """After every attempt: what was whole before is there, or enough that is newer."""
        after = runs.checkpoints(desk)
        newest = max(before, default=-1), max(after, default=-1)
        keep = runs.PLAIN["keep_checkpoints"]
        if newest[1] < newest[0] or len(after) < min(len(before), keep):
            tell("lost", what=f"{kind}: {list(before)} became {list(after)} in {outcome.phase}, {desk.root}")
        if harm:
            noticed = "LS5005" in outcome.said and _harmed(harm) in outcome.said
            tell("damage", noticed=noticed, what=f"{kind}: {harm}, {desk.root}")

    def _compare(self, kind: runs.Kind, desk: Desk, straight: Straight, killed: int) -> None:
        found = runs.results(desk)
        unequal = runs.unequal(found, straight.files)
        counts = {"kills": killed, "files": len(straight.files), "unequal": unequal}
        tell("run", task=kind.task, options=kind.options, **counts)
        if unequal:
            tell("failure", what=f"{kind}: {unequal} differ in {desk.root}")
        if left := runs.left_over(desk):
            tell("failure", what=f"{kind}: left over {left} in {desk.root}")

    def _fresh(self, kind: runs.Kind, desk: Desk, moment: Moment | None) -> Outcome:
        """The same in a process of its own, from its first import on; its phase is read off its files."""
        log, events = desk.root / "said.txt", runs.output(desk) / "events.jsonl"
        started, size = time.monotonic(), events.stat().st_size if events.exists() else 0
        with open(log, "wb") as said:
            process = subprocess.Popen(
                [sys.executable, str(ROOT / "train.py"), "--config", "run.yaml"],
                cwd=desk.root, env=environment(), stdout=said, stderr=subprocess.STDOUT,
            )  # fmt: skip
        try:
            if moment is not None:
                # by what it has written and not by the clock: most of its seconds are imports
                mark = size + self.chance.randint(0, int(0.7 * self.straight[kind].events))
                pause = self.chance.uniform(0.0, 0.1)
                while process.poll() is None and (not events.exists() or events.stat().st_size <= mark):
                    time.sleep(0.002)
                process.wait(pause)
            process.wait(forks.SECONDS)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        code = process.wait()
        text = log.read_text(encoding="utf-8", errors="replace")
        phase = _phase_of(runs.output(desk), size)
        return Outcome(None if code == -signal.SIGKILL else code, phase, time.monotonic() - started, text)


def _harmed(harm: str | None) -> str:
    """The checkpoint that was damaged on purpose: ``runs.whole`` does not judge every byte of a manifest."""
    return (harm or "").partition("/")[0]


def _phase_of(root: Path, size: int) -> str:
    """Where a killed process was, from what it left."""
    events = root / "events.jsonl"
    if not events.exists() or events.stat().st_size <= size:
        return "starting"
    if list((root / "checkpoints").glob(".tmp-*")):
        return forks.CHECKPOINT
    if list(root.glob(".tmp-*")) or list(root.glob("*/.tmp-*")):
        return forks.EXPORT
    last = json.loads(events.read_bytes()[: events.read_bytes().rfind(b"\n") + 1].splitlines()[-1])["type"]
    early = {"phase": forks.CACHE, "note": forks.LOADING, "resumed": forks.LOADING, "exported": forks.RESULT}
    return early.get(last, forks.STEPS)


def shares(share: str) -> tuple[int, int]:
    at, _, of = share.partition("/")
    return int(at), int(of)


def turns(kinds: list[runs.Kind]) -> Iterator[runs.Kind]:
    while True:
        yield from kinds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--fresh", type=int, default=0)
    parser.add_argument("--per-run", type=int, default=10, help="kills of one run, four more or less")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--share", default="0/1", help="this worker's number / number of workers")
    parser.add_argument("--task", choices=(runs.IMAGES, runs.TEXTS))
    parser.add_argument("--plant", choices=sorted(PLANTS))
    options = parser.parse_args()
    os.environ.update(SETTINGS)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that its folder goes, too
    with tempfile.TemporaryDirectory(prefix="torture-", ignore_cleanup_errors=True) as folder:
        work(options, Path(folder))
    return 0


def work(options: argparse.Namespace, folder: Path) -> None:
    at, of = shares(options.share)
    mine = [kind for kind in runs.kinds()[at::of] if options.task in (None, kind.task)]
    makers = runs.Makers(folder)
    chance = random.Random(f"{options.seed} {at}")
    plain = [runs.Kind(task, "plain") for task in sorted({kind.task for kind in mine})]
    desks = [Desk(folder / f"run-{number:03d}", folder) for number in range(1, len(plain) + 1)]
    forks.warm_up(lambda: [(WORDS, makers.desk(kind).root) for kind in plain], folder / "modules.txt")
    tell("ready", threads=forks.threads())
    worker = Worker(makers, chance, options.kills, options.fresh, options.plant, options.per_run)
    for kind, desk in zip(plain, desks, strict=True):  # half of what they took went into imports
        worker.straight[kind] = Straight(runs.results(desk), runs.seconds(desk) / 2, runs.logged(desk))
    kinds = turns(mine)
    while worker.kills > 0 or worker.fresh > 0:
        worker.torture(next(kinds))


if __name__ == "__main__":
    sys.exit(main())
