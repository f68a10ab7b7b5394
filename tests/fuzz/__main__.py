"""Ten thousand damaged inputs of each kind through the product's own readers.

    python -m tests.fuzz [--count N] [--seed N] [--kind KIND] [--only NUMBER] [--plant DEFECT]

Ends with 1 if anything but a clean answer came back; inputs that did so lie under output/fuzz/, each with the
command that tries it again. With ``--plant`` the program is broken on purpose, and it ends with 0 where that
was found.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from .plants import PLANTS
from .watch import MEMORY, PATIENCE, Failure, Tally, alone, try_one, watch

ROOT = Path(__file__).parents[2]
OUTPUT = ROOT / "output" / "fuzz"
KINDS = ("configs", "pictures", "rows", "headers", "commands")
COMMANDS_SHARE = 0.04
"""Command lines are a sample: each takes as long as a hundred readings."""
KEPT = 5
"""Inputs that are kept of failures that look alike."""
SEED = 8
PLANTED = 600


def main(arguments: list[str] | None = None) -> int:
    given = _parser().parse_args(arguments)
    print(f"seed {given.seed}")
    if given.only is not None:
        return _again(given.kind[0], given.seed, given.only, given.plant)
    kinds = [PLANTS[given.plant].kind] if given.plant else given.kind or list(KINDS)
    count = given.count or (PLANTED if given.plant else 10_000)
    counts = {kind: max(1, round(count * COMMANDS_SHARE)) if kind == "commands" else count for kind in kinds}
    began = time.monotonic()
    tallies = _all(counts, given.seed, given.plant)
    failures = [failure for tally in tallies.values() for failure in tally.failures]
    folder = OUTPUT / (given.plant or "run")
    for failure in failures:
        _keep(failure, given.seed, folder, failures)
    _write_result(tallies, given, time.monotonic() - began, folder)
    _say(tallies, failures, given.seed, time.monotonic() - began, folder)
    if given.plant:
        sign = PLANTS[given.plant].sign
        found = any(failure.what.startswith(sign) for failure in failures)
        print(f"planted {given.plant}: {'found' if found else 'NOT FOUND'}")
        return 0 if found else 1
    return 1 if failures else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument("--count", type=int, help="inputs of each kind (10000)")
    parser.add_argument("--seed", type=int, default=SEED, help=f"another one makes other inputs ({SEED})")
    parser.add_argument("--kind", choices=KINDS, action="append", help="this kind alone; may be given again")
    parser.add_argument("--only", type=int, metavar="NUMBER", help="one input of one --kind, shown in full")
    parser.add_argument(
        "--plant", choices=sorted(PLANTS), help="break the product so first: the run has to fail"
    )
    return parser


def _again(kind: str, seed: int, number: int, plant: str | None) -> int:
    from .case import case_of

    alone()
    if plant:
        PLANTS[plant].sow()
    module = importlib.import_module(f"tests.fuzz.{kind}")
    case = case_of(module, seed, number)
    print(f"{kind} {number}: {case.told}")
    said, failure = try_one(module, seed, number)
    print(f"said: {', '.join(said) or 'nothing'}")
    if failure:
        print(failure.what + "\n" + failure.detail)
    return 1 if failure else 0


def _all(counts: dict[str, int], seed: int, plant: str | None) -> dict[str, Tally]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console()
    columns = (
        TextColumn("{task.description:9}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[wrong]}"),
    )
    tallies: dict[str, Tally] = {}
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        tasks = {
            kind: bar.add_task(kind, total=count, wrong="", start=False) for kind, count in counts.items()
        }
        for kind, count in counts.items():
            bar.start_task(tasks[kind])
            began, spoken, shown = time.monotonic(), time.monotonic(), 0

            def told(tally: Tally, kind: str = kind, count: int = count, began: float = began) -> None:
                nonlocal spoken, shown
                for failure in tally.failures[shown:]:
                    console.print(f"{kind} {failure.number}: {failure.what[:150]!r}", markup=False)
                shown = len(tally.failures)
                wrong = f"{len(tally.failures)} wrong" if tally.failures else ""
                bar.update(tasks[kind], completed=tally.done, wrong=wrong)
                if not console.is_terminal and time.monotonic() - spoken > 30 and tally.done:
                    spoken = time.monotonic()
                    left = (spoken - began) / tally.done * (count - tally.done)
                    print(f"{kind}: {tally.done} of {count}, {left / 60:.1f} min left {wrong}", flush=True)

            tallies[kind] = watch(kind, seed, count, plant, told)
    return tallies


def _keep(failure: Failure, seed: int, folder: Path, all_of_them: list[Failure]) -> None:
    """Writes the input with how to try it again, unless many like it lie there."""
    from .case import case_of

    alike = [
        other for other in all_of_them if (other.kind, other.signature) == (failure.kind, failure.signature)
    ]
    if failure not in alike[:KEPT]:
        return
    place = folder / failure.kind / str(failure.number)
    place.mkdir(parents=True, exist_ok=True)
    case = case_of(importlib.import_module(f"tests.fuzz.{failure.kind}"), seed, failure.number)
    case.write(place) if case.files else None
    text = f"{_command(failure, seed)}\n\n{case.told}\n{case.options}\n\n{failure.what}\n{failure.detail}"
    (place / "again.txt").write_text(text, encoding="utf-8", errors="backslashreplace")


def _command(failure: Failure, seed: int) -> str:
    return f"python -m tests.fuzz --seed {seed} --kind {failure.kind} --only {failure.number}"


def _write_result(tallies: dict[str, Tally], given: Any, seconds: float, folder: Path) -> None:
    result = {
        "version": 1,
        "seed": given.seed,
        "plant": given.plant,
        "seconds": round(seconds, 1),
        "failures": sum(len(tally.failures) for tally in tallies.values()),
        "kinds": {
            kind: {
                "cases": tally.done,
                "with_problems": tally.refused,
                "computed_seconds": round(tally.computed, 1),
                "failures": [f"{failure.number}: {failure.what}" for failure in tally.failures],
                "slowest": {"seconds": round(tally.slowest[0], 2), "number": tally.slowest[1]},
                "most_memory": {"megabytes": round(tally.peak[0] / 1e6), "number": tally.peak[1]},
                "codes": dict(tally.said.most_common()),
            }
            for kind, tally in tallies.items()
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(
        json.dumps(result, indent=1, ensure_ascii=False), encoding="utf-8", errors="backslashreplace"
    )


def _say(tallies: dict[str, Tally], failures: list[Failure], seed: int, seconds: float, folder: Path) -> None:
    for kind, tally in tallies.items():
        (slowest, at), (most, there) = tally.slowest, tally.peak
        print(
            f"{kind}: {tally.done} inputs, {tally.refused} with something to say in {len(tally.said)} codes, "
            f"{len(tally.failures)} wrong; slowest {slowest:.1f} s of {PATIENCE:.0f} (number {at}), "
            f"most memory {most / 1e6:.0f} MB of {MEMORY / 1e6:.0f} (number {there}); "
            f"{tally.computed:.0f} s of computing"
        )
    groups: dict[tuple[str, str], list[Failure]] = defaultdict(list)
    for failure in failures:
        groups[failure.kind, failure.signature].append(failure)
    for (kind, _), group in sorted(groups.items(), key=lambda item: -len(item[1])):
        print(f"  {len(group)} x {kind}: {group[0].what[:200]!r}\n      {_command(group[0], seed)}")
    outcome = f"{len(failures)} wrong" if failures else "nothing wrong"
    print(f"{outcome} in {seconds / 60:.1f} min; {folder / 'result.json'}")


if __name__ == "__main__":
    sys.exit(main())
