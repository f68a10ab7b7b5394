"""Saves cut off, robbed of power and damaged: the part of `make torture` that kills no training.

`python -m tests.torture.disk` prints one JSON object a line: a total for each kind of fault, each failure.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from . import cuts, flips, forks, runs, saves
from .kills import SETTINGS, WORDS, tell
from .plants import PLANTS
from .saves import Save

ORDER, CUT, POWER, FLIP = "order of calls", "cut off at a call", "power lost", "damaged file"


def all_saves(makers: runs.Makers) -> list[Save]:
    return [
        saves.CheckpointSave(),
        saves.CheckpointSave("first checkpoint", (), 1),
        saves.records_save(),
        saves.picture_export(makers.base(runs.IMAGES)),
        saves.text_export(makers.base(runs.TEXTS)),
    ]


def report(fault: str, found: cuts.Found) -> None:
    tell("fault", fault=fault, points=found.points, failures=found.failures[:20], failed=len(found.failures))


def trained(makers: runs.Makers, task: str) -> saves.CheckpointStore:
    """The checkpoints of a real run of a task."""
    desk = makers.desk(runs.Kind(task, "plain"))
    log = desk.root / "said.txt"
    if forks.wait(forks.in_child(lambda: forks.command(WORDS, desk.root), log)):
        raise RuntimeError(log.read_text())
    folder = runs.output(desk)
    identity = json.loads((folder / "identity.json").read_text())["digest"]
    return saves.CheckpointStore(folder / "checkpoints", identity=identity, keep=2)


def work(folder: Path) -> None:
    makers = runs.Makers(folder / "desks")
    for save in all_saves(makers):
        for fault, function in _faults():
            place = folder / f"{save.name} {fault}"
            place.mkdir()
            report(fault, function(save, place))
    small = saves.CheckpointSave()
    small.prepare(folder / "small")
    report(FLIP, flips.unnoticed(small.store(folder / "small")))
    for task in (runs.IMAGES, runs.TEXTS):
        report(FLIP, flips.unnoticed(trained(makers, task)))


def _faults() -> list[tuple[str, Callable[[Save, Path], cuts.Found]]]:
    def cut(save: Save, place: Path) -> cuts.Found:
        return cuts.cut_off(save, place, fork=True)

    return [(ORDER, cuts.in_order), (CUT, cut), (POWER, cuts.without_power)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plant", choices=sorted(PLANTS))
    options = parser.parse_args()
    os.environ.update(SETTINGS)
    with tempfile.TemporaryDirectory(prefix="torture-", ignore_cleanup_errors=True) as folder:
        if options.plant:
            PLANTS[options.plant].into_product()
        work(Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
