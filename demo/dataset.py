"""`python -m demo.dataset`: draws the training pictures and those held out for validation."""

from __future__ import annotations

import csv
import random
import sys
from pathlib import Path

from demo.neon import NeonStyle, tagged
from demo.world import SIZES, Scene, describe, sample_scene

ROOT = Path(__file__).resolve().parents[1]
TRAINING = ROOT / "data" / "cyberpunk"
VALIDATION = ROOT / "data" / "cyberpunk_validation"
COUNT, HELD_OUT = 60, 12


def plan(count: int, seed: int, taken: set[tuple]) -> list[Scene]:
    """Scenes with contents not in `taken` (which grows): three quarters square, the rest wide or tall."""
    rng = random.Random(seed)
    found: list[Scene] = []
    while len(found) < count:
        scene = sample_scene(rng, counts=(2, 2, 3, 3))
        if scene.content() in taken:
            continue
        taken.add(scene.content())
        shape = {5: SIZES[1], 7: SIZES[2]}.get(len(found) % 8, SIZES[0])
        found.append(scene.resized(*shape))
    return found


def write(folder: Path, scenes: list[Scene], seed: int) -> None:
    """Write pictures and metadata.csv; what an earlier version left is removed."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    rng = random.Random(seed)
    with (folder / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("file_name", "text"))
        for index, scene in enumerate(scenes, 1):
            name = f"city_{index:02d}.png"
            NeonStyle().paint(scene).save(folder / name, optimize=True)
            writer.writerow((name, tagged(describe(scene, rng))))


def sets() -> tuple[list[Scene], list[Scene]]:
    """Scenes for training and for validation; no content is in both."""
    taken: set[tuple] = set()
    return plan(COUNT, 101, taken), plan(HELD_OUT, 202, taken)


def main() -> int:
    training, validation = sets()
    write(TRAINING, training, 103)
    write(VALIDATION, validation, 204)
    size = sum(path.stat().st_size for path in TRAINING.iterdir())
    print(f"{TRAINING.name}: {len(training)} pictures, {size / 1e6:.1f} MB")
    print(f"{VALIDATION.name}: {len(validation)} pictures")
    return 0


if __name__ == "__main__":
    sys.exit(main())
