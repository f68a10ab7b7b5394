"""`python -m demo`: from bare pictures to a LoRA by this project's own commands, and a picture of it."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from demo import comparison, labeled, verdict
from demo.base import folder as base

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs" / "demo.yaml"
OUTPUT = ROOT / "output" / "demo"


def prepare() -> tuple[int, dict[str, float]]:
    """Bare pictures, labelled and checked. Returns an exit code, and what the captions are worth."""
    scenes = labeled.draw()
    print(f"{len(scenes)} pictures without captions: {labeled.FOLDER.relative_to(ROOT)}", flush=True)
    code = labeled.label() or labeled.check()
    if code:
        return code, {}
    right, whole = labeled.right(labeled.FOLDER, scenes)
    print(
        f"captions: {len(right)} of {len(scenes)} name every thing, its colour and its place, "
        f"{whole} also ground, weather and time",
        flush=True,
    )
    return 0, {"captions_right": len(right) / len(scenes), "captions_whole": whole / len(scenes)}


def train(config: Path, overrides: list[str]) -> int:
    """One run of train.py, which validates the config and the pictures first. Returns its exit code."""
    command = [sys.executable, str(ROOT / "train.py"), "--config", str(config), "--overwrite"]
    for override in overrides:
        command += ["--set", override]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def show(output: Path) -> list[float]:
    """Write output/comparison.png and return the distance to the drawn style for each strength."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    weights = output / "pytorch_lora_weights.safetensors"
    look = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*look, console=Console(stderr=True)) as progress:
        task = progress.add_task("comparison.png", total=len(comparison.STRENGTHS))
        generated = comparison.columns(base.FOLDER, weights, lambda: progress.advance(task))
    target = comparison.drawn(comparison.held_out())
    comparison.compose(generated, target).save(output / "comparison.png", optimize=True)
    return [comparison.distance(pictures, target) for pictures in generated]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--no-train", action="store_true", help="show and judge what an earlier run left")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="the config's output_dir")
    options = parser.parse_args(arguments)

    started = time.monotonic()
    captions: dict[str, float] = {}
    if not options.no_train:
        code, captions = prepare()
        code = code or train(
            options.config,
            [f"train_data_dir={labeled.FOLDER.relative_to(ROOT).as_posix()}", *options.overrides],
        )
        if code:
            return code
    output: Path = options.output
    path = output / "result.json"
    if not path.exists():
        print(f"{path} is missing: the run left no result", file=sys.stderr)
        return 1
    result = json.loads(path.read_text(encoding="utf-8"))
    distances = show(output)
    reference = verdict.read_reference(base.FOLDER, base.fingerprint())
    result |= captions
    result["gap_closed"] = verdict.gap_closed(result, reference)
    result["distance_to_style"] = dict(zip(map(str, comparison.STRENGTHS), distances, strict=True))
    problems = verdict.reasons(result, distances)
    result["demo_ok"] = not problems
    path.write_text(json.dumps(result, ensure_ascii=False, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    report(result, distances, time.monotonic() - started)
    print(f"comparison: {output / 'comparison.png'}")
    for problem in problems:
        print(f"demo failed: {problem}", file=sys.stderr)
    return 1 if problems else 0


def report(result: dict, distances: list[float], seconds: float) -> None:
    """Print the figures a viewer may want beside the picture."""
    before, after = result.get("validation_loss_before"), result.get("validation_loss_after")
    if before is not None and after is not None:
        fall = verdict.fall(before, after)
        print(f"held-out loss in the new style: {before:.4f} before, {after:.4f} after ({fall:.1%} less)")
    gap = result["gap_closed"]
    said = "no reference for this base and these steps" if gap is None else f"{gap:.0%}"
    print(f"share of a full fine-tuning's gain: {said}")
    steps = ", ".join(
        f"{strength}: {value:.3f}" for strength, value in zip(comparison.STRENGTHS, distances, strict=True)
    )
    print(f"distance to the drawn style by strength: {steps}")
    print(f"{seconds / 60:.1f} minutes")


if __name__ == "__main__":
    sys.exit(main())
