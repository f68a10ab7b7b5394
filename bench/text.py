"""`python -m bench.text`: the text task against TRL's SFTTrainer, on the same rows, alternating, on one core.

Every measurement is a process of its own. Steady state: CPU seconds per real (not padding) token of the steps
after the first few; memory: the largest resident set. See bench/README.md for the peers' environment.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.rows import SETS, select, write_rows

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = ROOT / "output" / "bench-text"
SPEED_GOALS = {"trl default, batch 4": 4.5, "trl packing, batch 1": 2.7}
MEMORY_GOALS = {"trl default, batch 4": 0.5, "trl packing, batch 1": 0.8}
LOSS_TOLERANCE = 0.01
"""Relative difference of two losses that counts as the same."""
OURS = "lora-scripts, batch 4"
RECOMPUTED = "lora-scripts, batch 4, activations recomputed"


@dataclass(frozen=True)
class Arm:
    """Every arm goes once over the same rows, in the same order where it does not pack them itself.
    ``overrides``: what differs from the arm's own defaults."""

    name: str
    peer: bool
    batch_size: int
    packing: bool
    overrides: dict[str, Any] = field(default_factory=dict)


ARMS = (
    Arm(OURS, False, 4, True),
    Arm("trl default, batch 4", True, 4, False),
    Arm("trl packing, batch 1", True, 1, True),
)
MORE = (
    Arm(RECOMPUTED, False, 4, True, {"gradient_checkpointing": True}),
    Arm("trl in fp32, batch 4", True, 4, False, {"bf16": False}),
)


def environment() -> dict[str, str]:
    """One thread everywhere, and no network."""
    one = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TOKENIZERS_PARALLELISM")}
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "PYTHONPATH": str(ROOT / "src")}
    return os.environ | one | offline


def pinned() -> list[int]:
    """The one core that everything runs on; empty where the system cannot say."""
    return [max(os.sched_getaffinity(0))] if hasattr(os, "sched_getaffinity") else []


def run(command: list[str], log: Path) -> None:
    with open(log, "w", encoding="utf-8") as handle:
        done = subprocess.run(  # noqa: S603 - interpreters of ours and of the peers, fixed words
            command, cwd=ROOT, env=environment(), stdout=handle, stderr=subprocess.STDOUT, check=False
        )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed; the end of {log}:\n{log.read_text()[-2000:]}")


def measure(arm: Arm, job: dict[str, Any], work: Path, peers: Path | None, tag: str) -> dict[str, Any]:
    """One process of one arm; what it wrote."""
    folder = work / tag
    folder.mkdir()
    whole = job | {
        "output": str(folder),
        "result": str(folder / "result.json"),
        "adapter": str(folder / "adapter.safetensors"),
        "batch_size": arm.batch_size,
        "packing": arm.packing,
        "overrides": arm.overrides,
    }
    if not arm.peer:
        whole["start"] = str(folder / "start.safetensors")
    path = folder / "job.json"
    path.write_text(json.dumps(whole), encoding="utf-8")
    if arm.peer:
        assert peers is not None
        command = [str(peers), str(ROOT / "bench" / "peer_trl.py"), str(path)]
    else:
        command = [sys.executable, "-m", "bench.ours", str(path)]
    run(command, folder / "log.txt")
    found: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return found


def steady(result: dict[str, Any], warm: int) -> float:
    """CPU seconds per real token after the first ``warm`` steps."""
    seconds = result["cpu_seconds"][-1] - result["cpu_seconds"][warm - 1]
    tokens: int = sum(result["tokens"][warm : len(result["cpu_seconds"])])
    return float(seconds) / tokens


def peers_python() -> Path | None:
    """The interpreter of the peers' environment, named by PEERS_DIR."""
    folder = os.environ.get("PEERS_DIR")
    if not folder:
        return None
    for inside in ("trl/bin/python", "bin/python"):
        if (Path(folder) / inside).exists():
            return Path(folder) / inside
    return None


def compare_losses(
    job: dict[str, Any], steps: int, rows: Path, held_out: Path, work: Path, peers: Path, warm: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Trains both arms over the same windows from the same start, and has one judge weigh the adapters.

    Returns the judge's losses and, since these are the longest runs, their speeds.
    """
    ours, peer = ARMS[0], ARMS[1]
    found = measure(ours, job | {"rows": str(rows), "steps": steps}, work, peers, "loss-ours")
    lines = rows.read_text(encoding="utf-8").splitlines()
    ordered = work / "ordered.jsonl"
    in_order = [lines[number - 1] for window in found["order"] for number in window]
    ordered.write_text("\n".join(in_order) + "\n", encoding="utf-8")
    start = str(work / "loss-ours" / "start.safetensors")
    other = measure(
        peer, job | {"rows": str(ordered), "steps": steps, "start": start}, work, peers, "loss-trl"
    )
    judged = {
        "base": job["base"],
        "rank": job["rank"],
        "alpha": job["alpha"],
        "adapters": {
            ours.name: str(work / "loss-ours" / "adapter.safetensors"),
            peer.name: str(work / "loss-trl" / "adapter_model.safetensors"),
        },
        "parts": {"trained rows": str(ordered), "held-out rows": str(held_out)},
        "result": str(work / "judge.json"),
    }
    (work / "judge-job.json").write_text(json.dumps(judged), encoding="utf-8")
    run([sys.executable, "-m", "bench.judge", str(work / "judge-job.json")], work / "judge.log")
    verdict = json.loads((work / "judge.json").read_text(encoding="utf-8"))
    own = {ours.name: found["losses"], peer.name: other["losses"]}
    speeds = {ours.name: steady(found, warm), peer.name: steady(other, warm)}
    return {"judge": verdict, "own_losses": own, "steps": steps, "rows": len(in_order)}, speeds


def summary(rounds: dict[str, list[dict[str, Any]]], warm: int) -> dict[str, dict[str, float]]:
    """Arm -> median CPU milliseconds per real token, its spread over rounds, and peak memory in GB."""
    table = {}
    for name, results in rounds.items():
        speeds = [1000 * steady(result, warm) for result in results]
        table[name] = {
            "ms_per_token": statistics.median(speeds),
            "ms_lowest": min(speeds),
            "ms_highest": max(speeds),
            "peak_gb": statistics.median(max(result["peak_bytes"]) for result in results) / 1e9,
        }
    return table


def ratios(table: dict[str, dict[str, float]], own: str = OURS) -> list[dict[str, Any]]:
    """What each peer that a goal names takes for one of our seconds and bytes."""
    ours = table[own]
    found = []
    for name in SPEED_GOALS:
        if name in table:
            speed = table[name]["ms_per_token"] / ours["ms_per_token"]
            memory = ours["peak_gb"] / table[name]["peak_gb"]
            reached = speed >= SPEED_GOALS[name] and memory <= MEMORY_GOALS[name]
            found.append(
                {
                    "ours": own,
                    "peer": name,
                    "times_faster": speed,
                    "goal_faster": SPEED_GOALS[name],
                    "memory_share": memory,
                    "goal_memory": MEMORY_GOALS[name],
                    "reached": reached,
                }
            )
    return found


def report(result: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = ["| arm | CPU ms per real token (lowest to highest) | peak GB |", "|---|---|---|"]
    for name, row in result["arms"].items():
        spread = f"{row['ms_lowest']:.2f} to {row['ms_highest']:.2f}"
        lines.append(f"| {name} | {row['ms_per_token']:.2f} ({spread}) | {row['peak_gb']:.2f} |")
    lines.append("")
    for row in (*result["ratios"], *result.get("more_ratios", ())):
        lines.append(
            f"{row['ours']}, against {row['peer']}: "
            f"{row['times_faster']:.2f} times faster (goal {row['goal_faster']}), "
            f"{row['memory_share']:.2f} of its memory (goal {row['goal_memory']}): "
            f"{'reached' if row['reached'] else 'NOT reached'}"
        )
    if loss := result.get("loss"):
        lines.append(
            f"loss after {loss['steps']} steps on the same {loss['rows']} rows, by one judge in fp32:"
        )
        for arm, parts in loss["judge"].items():
            lines.append(f"  {arm}: " + ", ".join(f"{part} {value:.4f}" for part, value in parts.items()))
        lines.append(f"  largest difference: {loss['difference']:.2%} (goal: {LOSS_TOLERANCE:.0%})")
    if result["peers"] is None:
        lines.append("TRL: absent (set PEERS_DIR, see bench/README.md)")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.text", description=__doc__)
    parser.add_argument("--rows", choices=SETS, default="reporting", help="tune on one set, report the other")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8, help="windows of four rows in each round")
    parser.add_argument("--warm", type=int, default=2, help="first windows that are not counted")
    parser.add_argument("--loss-steps", type=int, default=24, help="windows of the loss comparison; 0: none")
    parser.add_argument("--more", action="store_true", help="also ours with less memory, and TRL in fp32")
    parser.add_argument("--ours-only", action="store_true", help="measure this project alone")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args(arguments)

    if core := pinned():
        os.sched_setaffinity(0, core)
    from lora_scripts.families._fetched import fetch_demo_chat

    base = str(fetch_demo_chat())
    peers = None if options.ours_only else peers_python()
    result: dict[str, Any] = {"peers": str(peers) if peers else None, "core": core}
    with tempfile.TemporaryDirectory(prefix="bench-text-") as name:
        work = Path(name)
        chosen = select(options.rows)
        count = options.steps * ARMS[0].batch_size
        rows = write_rows(work / "speed" / "rows.jsonl", chosen.rows[:count])
        job = {
            "base": base,
            "rank": 16,
            "alpha": 16,
            "learning_rate": 1e-3,
            "max_length": 1024,
            "seed": 1,
            "rows": str(rows),
        }
        arms = [arm for arm in ARMS + (MORE if options.more else ()) if peers or not arm.peer]
        rounds: dict[str, list[dict[str, Any]]] = {arm.name: [] for arm in arms}
        for number in range(options.rounds):
            for arm in arms[number % len(arms) :] + arms[: number % len(arms)]:
                found = measure(
                    arm, job | {"steps": options.steps}, work, peers, f"{number}-{arms.index(arm)}"
                )
                rounds[arm.name].append(found)
                speed = 1000 * steady(found, options.warm)
                print(f"round {number + 1}, {arm.name}: {speed:.2f} ms per real token", flush=True)
        table = summary(rounds, options.warm)
        result |= {
            "arms": table,
            "ratios": ratios(table),
            "more_ratios": ratios(table, RECOMPUTED) if options.more else [],
            "rounds": options.rounds,
            "job": job | {"rows": options.rows, "base": Path(base).name, "steps": options.steps},
            "data": chosen.source,
            "settings": {name: found[0]["settings"] for name, found in rounds.items()},
            "trainable": {name: found[0]["trainable"] for name, found in rounds.items()},
            "versions": {name: found[0]["versions"] for name, found in rounds.items()},
            "machine": {"processor": platform.processor(), "python": platform.python_version()},
        }
        if peers and options.loss_steps:
            trained = options.loss_steps * ARMS[0].batch_size
            rows = write_rows(work / "loss" / "rows.jsonl", chosen.rows[:trained])
            held_out = write_rows(work / "held-out" / "rows.jsonl", chosen.rows[trained : trained + 40])
            loss, speeds = compare_losses(job, options.loss_steps, rows, held_out, work, peers, options.warm)
            both = [loss["judge"][arm.name] for arm in ARMS[:2]]
            loss["difference"] = max(abs(both[0][part] / both[1][part] - 1) for part in both[0])
            loss["same"] = loss["difference"] <= LOSS_TOLERANCE
            result |= {"loss": loss, "long_run_seconds_per_token": speeds}
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    told = report(result)
    (options.output / "table.md").write_text(told + "\n", encoding="utf-8")
    print(told)
    wrong = [row for row in result["ratios"] if not row["reached"]]
    return 1 if wrong or not result.get("loss", {"same": True})["same"] else 0


if __name__ == "__main__":
    sys.exit(main())
