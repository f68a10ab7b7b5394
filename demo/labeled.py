"""A user's first step, for real: bare pictures, captions by the captioner that comes along, a check."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from demo.dataset import sets
from demo.neon import TRIGGER, NeonStyle
from demo.world import Scene, parse

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "output" / "demo_pictures"
CAPTIONS = "metadata.csv"


def draw(folder: Path = FOLDER) -> list[Scene]:
    """Draw the demo's training pictures without a caption, and nothing else; returns what is on them.

    The pictures are those of `data/cyberpunk`. Captions of an earlier call are removed, so that they are
    made again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        if old.is_file():
            old.unlink()
    scenes, _ = sets()
    for name, scene in zip(names(scenes), scenes, strict=True):
        NeonStyle().paint(scene).save(folder / name)
    return scenes


def names(scenes: Sequence[Scene]) -> list[str]:
    return [f"city_{number:02d}.png" for number in range(1, len(scenes) + 1)]


def run(*command: str | Path) -> int:
    """Type a command as a user does, and say so. Returns its exit code."""
    shown = [str(part.relative_to(ROOT) if isinstance(part, Path) else part) for part in command]
    print("$ python " + " ".join(f'"{part}"' if " " in part else part for part in shown), flush=True)
    return subprocess.run([sys.executable, *shown], cwd=ROOT, check=False).returncode


def label(folder: Path = FOLDER) -> int:
    """Caption the pictures with `tools/auto_label.py`. Returns its exit code."""
    return run(
        "tools/auto_label.py",
        *("--input", folder, "--output", folder / CAPTIONS),
        *("--model", "builtin:demo", "--trigger", TRIGGER),
    )


def check(folder: Path = FOLDER) -> int:
    """Let the data doctor look at pictures and captions. Returns its exit code."""
    return run("-m", "lora_scripts.cli.main", "dataset", "check", folder)


def right(folder: Path, scenes: Sequence[Scene]) -> tuple[list[str], int]:
    """Names of pictures whose caption names every thing, its colour and its place, and nothing else; and how
    many captions get ground, weather and time right too."""
    with (folder / CAPTIONS).open(encoding="utf-8", newline="") as file:
        told = {row["file_name"]: row["text"] for row in csv.DictReader(file)}
    found, whole = [], 0
    for name, scene in zip(names(scenes), scenes, strict=True):
        said = parse(told.get(name, "").removeprefix(f"{TRIGGER}, "))
        if said is not None and said.content()[0] == scene.content()[0]:
            found.append(name)
            whole += said.content() == scene.content()
    return found, whole
