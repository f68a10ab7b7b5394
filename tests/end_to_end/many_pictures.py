"""A run over very many small pictures, from files on disk, and how much memory it held in each phase.

python -m tests.end_to_end.many_pictures FOLDER COUNT [STEPS]
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from tests.contract.conftest import ROOT, Desk, environment
from tests.families.tiny import write_folder

SIDE, TRAINED = 32, 16
"""Pixels of the files, and what they are scaled to: as little as the small base takes."""
MIB = 2**20


def draw(folder: Path, count: int) -> None:
    """``count`` different PNGs of 32 px in folders of a thousand, each with a caption of its own; those that
    lie there already are kept."""
    if (folder / "metadata.csv").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(7)
    with open(folder / "metadata.csv", "w", newline="", encoding="utf-8") as handle:
        table = csv.writer(handle)
        table.writerow(("file_name", "text"))
        for number in range(count):
            name = f"{number // 1000:03}/{number:06}.png"
            if not number % 1000:
                (folder / name).parent.mkdir(exist_ok=True)
            blocks = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
            Image.fromarray(np.kron(blocks, np.ones((SIDE // 4, SIDE // 4, 1), np.uint8))).save(folder / name)
            table.writerow((name, f"a pattern, number {number}"))


def run(root: Path, count: int, steps: int = 100) -> dict[str, dict[str, float]]:
    """Trains on ``count`` pictures under ``root``. Phase -> ``seconds``, and the peak of ``resident`` memory
    while it lasted, of it ``own`` (without pages of files), in MiB; the first phase is all that comes before
    the log."""
    draw(root / "pics", count)
    desk = Desk(root, write_folder(root / "base"))
    config = desk.config(
        resolution=TRAINED, batch_size=8, max_steps=steps, save_steps=steps, logging={"tensorboard": False},
        validation={"split": "auto"},
    )  # fmt: skip
    command = [sys.executable, str(ROOT / "train.py"), "--config", str(config)]
    child = subprocess.Popen(
        command, cwd=root, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    held = psutil.Process(child.pid)
    events, found = root / "output/my_style/events.jsonl", {}
    phase, since = "pictures checked", time.monotonic()
    place = 0
    while child.poll() is None:
        if events.exists():
            with open(events, "rb") as handle:
                handle.seek(place)
                lines = handle.read().split(b"\n")
            place += sum(len(line) + 1 for line in lines[:-1])
            for line in map(json.loads, lines[:-1]):
                name = line["data"]["phase"] if line["type"] == "phase" else line["type"]
                if name in ("step", "run_started"):
                    name = "trained"
                if name != phase and name in ("base", "latents", "text", "trained"):
                    phase, since = name, time.monotonic()
        now = found.setdefault(phase, {"seconds": 0.0, "resident": 0.0, "own": 0.0})
        try:
            memory = held.memory_info()
        except psutil.NoSuchProcess:
            break
        now["seconds"] = round(time.monotonic() - since, 1)
        now["resident"] = max(now["resident"], round(memory.rss / MIB))
        now["own"] = max(now["own"], round((memory.rss - memory.shared) / MIB))
        time.sleep(0.05)
    said = child.communicate()[0]
    assert child.returncode == 0, said
    return found


if __name__ == "__main__":
    counts = [int(word) for word in sys.argv[2:]]
    for phase, figures in run(Path(sys.argv[1]), *counts).items():
        print(phase, figures, flush=True)
