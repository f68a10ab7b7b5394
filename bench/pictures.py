"""`python -m bench.pictures`: the picture task against Diffusers' `train_text_to_image_lora.py`: one base,
the same pictures and adapted modules, alternating, on one core.

Every measurement is a process of its own. Steady state: CPU seconds per step after the first few; memory: the
largest resident set. See bench/README.md for the peers' environment.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.small_sd import write_base, write_pictures
from bench.text import ROOT, pinned, run

OUTPUT = ROOT / "output" / "bench-pictures"
OURS, PEER = "lora-scripts", "diffusers script"
SPEED_GOAL = 2.0
MEMORY_GOAL = 1.0
SCRIPT = "train_text_to_image_lora.py"


@dataclass(frozen=True)
class Arm:
    """``overrides``: what differs from the arm's own defaults."""

    name: str
    peer: bool
    overrides: dict[str, Any]


ARMS = (Arm(OURS, False, {}), Arm(PEER, True, {}))
MORE = (
    Arm(f"{OURS}, fp32", False, {"mixed_precision": "no"}),
    Arm(f"{PEER}, bf16", True, {"mixed_precision": "bf16"}),
)


def peer() -> tuple[Path, Path] | None:
    """Interpreter and script of the peer, both under PEERS_DIR."""
    folder = os.environ.get("PEERS_DIR")
    if not folder:
        return None
    python, script = Path(folder) / "diffusers" / "bin" / "python", Path(folder) / SCRIPT
    return (python, script) if python.exists() and script.is_file() else None


def measure(
    arm: Arm, job: dict[str, Any], work: Path, found: tuple[Path, Path] | None, tag: str
) -> dict[str, Any]:
    """One process of one arm; what it wrote."""
    folder = work / tag
    folder.mkdir()
    whole = job | {"output": str(folder / "out"), "result": str(folder / "result.json")}
    whole["overrides"] = arm.overrides
    path = folder / "job.json"
    if arm.peer:
        assert found is not None
        whole["script"] = str(found[1])
        command = [str(found[0]), str(ROOT / "bench" / "peer_diffusers.py"), str(path)]
    else:
        command = [sys.executable, "-m", "bench.our_pictures", str(path)]
    path.write_text(json.dumps(whole), encoding="utf-8")
    run(command, folder / "log.txt")
    result: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return result


def steady(result: dict[str, Any], warm: int) -> float:
    """CPU seconds of a step after the first ``warm``."""
    seconds = result["cpu_seconds"]
    return float(seconds[-1] - seconds[warm - 1]) / (len(seconds) - warm)


def summary(rounds: dict[str, list[dict[str, Any]]], warm: int) -> dict[str, dict[str, float]]:
    """Arm -> median CPU seconds of a step, its spread over rounds, and peak memory in GB."""
    table = {}
    for name, results in rounds.items():
        speeds = [steady(result, warm) for result in results]
        table[name] = {
            "seconds": statistics.median(speeds),
            "lowest": min(speeds),
            "highest": max(speeds),
            "peak_gb": statistics.median(max(result["peak_bytes"]) for result in results) / 1e9,
            "modules": results[0]["modules"],
        }
    return table


def verdict(table: dict[str, dict[str, float]]) -> dict[str, Any] | None:
    """What the peer takes for one of our seconds and bytes; None where it was not measured."""
    if PEER not in table:
        return None
    ours, theirs = table[OURS], table[PEER]
    speed, memory = theirs["seconds"] / ours["seconds"], ours["peak_gb"] / theirs["peak_gb"]
    equal = ours["modules"] == theirs["modules"]
    return {
        "times_faster": speed,
        "memory_share": memory,
        "equal_modules": equal,
        "reached": equal and speed >= SPEED_GOAL and memory <= MEMORY_GOAL,
    }


def report(result: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = ["| arm | CPU s per step (lowest to highest) | peak GB | modules |", "|---|---|---|---|"]
    for name, row in result["arms"].items():
        spread = f"{row['lowest']:.3f} to {row['highest']:.3f}"
        lines.append(
            f"| {name} | {row['seconds']:.3f} ({spread}) | {row['peak_gb']:.2f} | {row['modules']} |"
        )
    lines.append("")
    if found := result["verdict"]:
        word = "reached" if found["reached"] else "NOT reached"
        lines.append(
            f"{PEER}: {found['times_faster']:.2f} times faster (goal {SPEED_GOAL}), "
            f"{found['memory_share']:.2f} of its memory (goal {MEMORY_GOAL}): {word}"
        )
        if not found["equal_modules"]:
            lines.append("the arms adapt different modules: the figures cannot be compared")
    else:
        lines.append(f"{PEER}: absent (set PEERS_DIR, see bench/README.md)")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.pictures", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12, help="steps of each run")
    parser.add_argument("--warm", type=int, default=3, help="first steps that are not counted")
    parser.add_argument("--more", action="store_true", help="also ours in fp32 and the peer in bf16")
    parser.add_argument("--ours-only", action="store_true", help="measure this project alone")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args(arguments)

    if core := pinned():
        os.sched_setaffinity(0, core)
    found = None if options.ours_only else peer()
    with tempfile.TemporaryDirectory(prefix="bench-pictures-") as name:
        work = Path(name)
        job = {
            "base": str(write_base(work / "base")),
            "pictures": str(write_pictures(work / "pictures", 24, 160)),
            "resolution": 128,
            "rank": 4,
            "batch_size": 4,
            "learning_rate": 1e-4,
            "seed": 1,
            "steps": options.steps,
        }
        arms = [arm for arm in ARMS + (MORE if options.more else ()) if found or not arm.peer]
        rounds: dict[str, list[dict[str, Any]]] = {arm.name: [] for arm in arms}
        for number in range(options.rounds):
            for arm in arms[number % len(arms) :] + arms[: number % len(arms)]:
                got = measure(arm, job, work, found, f"{number}-{arms.index(arm)}")
                rounds[arm.name].append(got)
                print(f"round {number + 1}, {arm.name}: {steady(got, options.warm):.3f} s a step", flush=True)
    table = summary(rounds, options.warm)
    result = {
        "arms": table,
        "verdict": verdict(table),
        "rounds": options.rounds,
        "job": {key: value for key, value in job.items() if key not in ("base", "pictures")},
        "settings": {name: got[0]["settings"] for name, got in rounds.items()},
        "versions": {name: got[0]["versions"] for name, got in rounds.items()},
        "machine": {"processor": platform.processor(), "python": platform.python_version(), "core": core},
    }
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    told = report(result)
    (options.output / "table.md").write_text(told + "\n", encoding="utf-8")
    print(told)
    return 0 if result["verdict"] is None or result["verdict"]["reached"] else 1


if __name__ == "__main__":
    sys.exit(main())
