"""The runs that are killed: small bases and data sets of both tasks, and options in rotation."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.contract.conftest import Desk, TextDesk, draw_pictures, write_csv, write_rows

MANIFEST = "manifest.json"
IMAGES, TEXTS = "image-generation", "text-generation"
PLAIN: dict[str, Any] = {
    "max_steps": 12, "save_steps": 2, "batch_size": 2, "keep_checkpoints": 2,
    "validation": {"split": 0.2, "every_steps": 3},
}  # fmt: skip
FULL: dict[str, Any] = {
    "lora_dropout": 0.1, "gradient_accumulation_steps": 2, "warmup_steps": 3, "lr_scheduler": "cosine",
}  # fmt: skip
QUIET: dict[str, Any] = {"logging": {"tensorboard": False}}
ROTATION: dict[str, dict[str, Any]] = {
    "plain": {},
    "bf16, accumulation, dropout, 8-bit AdamW, warm-up": {
        **FULL, **QUIET, "mixed_precision": "bf16", "optimizer": "adamw8bit",
    },
    "fp16, EMA, two exports kept": {
        **QUIET, "mixed_precision": "fp16", "ema_decay": 0.9, "keep_exports": 2, "lora_dropout": 0.1,
    },
    "schedule-free, accumulation, early end": {
        **QUIET, "optimizer": "schedulefree", "gradient_accumulation_steps": 2, "max_steps": 30,
        "learning_rate": 0.5, "validation": {"split": 0.2, "every_steps": 2, "early_stopping_patience": 2},
    },
}  # fmt: skip
"""Options by their name; each is run for both tasks."""


@dataclass(frozen=True)
class Kind:
    """What is trained, and with which options."""

    task: str
    options: str

    def __str__(self) -> str:
        return f"{self.task}, {self.options}"


def kinds() -> list[Kind]:
    """All kinds, so ordered that every other one has both tasks too."""
    found = []
    for number, options in enumerate(ROTATION):
        found += [Kind(task, options) for task in (IMAGES, TEXTS)[:: -1 if number % 2 else 1]]
    return found


class Makers:
    """Desks with one base each, made when they are asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def base(self, task: str) -> Path:
        folder = self.root / ("base-pictures" if task == IMAGES else "base-texts")
        if not folder.exists():
            if task == IMAGES:
                from tests.families.tiny import write_folder

                write_folder(folder)
            else:
                from tests.texts.small import write_model

                write_model(folder, "llama")
        return folder

    def desk(self, kind: Kind) -> Desk:
        """A working directory of its own, with its own cache, and ``run.yaml``."""
        number = len(list(self.root.glob("run-*"))) + 1  # a child may have made some
        root = self.root / f"run-{number:03d}"
        root.mkdir(parents=True)
        if kind.task == IMAGES:
            write_csv(root / "pics" / "metadata.csv", draw_pictures(root / "pics", 12))
            desk = Desk(root, self.base(kind.task))
        else:
            write_rows(root / "rows.jsonl")
            desk = TextDesk(root, self.base(kind.task))
        desk.config(
            **{**PLAIN, **ROTATION[kind.options], "output_dir": "./output/run", "output_name": "same"}
        )
        return desk


def output(desk: Desk) -> Path:
    return desk.root / "output" / "run"


def finished(desk: Desk) -> bool:
    return (output(desk) / "result.json").exists()


def whole(folder: Path) -> bool:
    """Whether a checkpoint is what its manifest says; written anew here, so as not to trust the product."""
    try:
        told = json.loads((folder / MANIFEST).read_bytes())["files"]
        files = {name: (folder / name).read_bytes() for name in told}
    except (OSError, ValueError, KeyError):
        return False
    return len(told) == 3 and all(
        len(data) == told[name]["size"] and hashlib.sha256(data).hexdigest() == told[name]["sha256"]
        for name, data in files.items()
    )


def checkpoints(desk: Desk) -> dict[int, Path]:
    """Whole checkpoints by their step, oldest first."""
    found = {int(p.name.removeprefix("step-")): p for p in (output(desk) / "checkpoints").glob("step-*")}
    return {step: found[step] for step in sorted(found) if whole(found[step])}


def results(desk: Desk) -> dict[str, bytes]:
    """Every file that must not depend on what happened on the way: LoRAs, their settings and cards,
    ``result.json``, and the newest checkpoint."""
    root = output(desk)
    newest = list(checkpoints(desk).values())[-1:]
    files = [path for path in root.rglob("*") if path.is_file() and _of_a_client(path.relative_to(root))]
    files += [path for folder in newest for path in folder.iterdir()]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def _of_a_client(path: Path) -> bool:
    names = ("result.json", "README.md", "adapter_config.json", "tokenizer.json", "chat_template.jinja")
    return path.parts[0] != "checkpoints" and (path.suffix == ".safetensors" or path.name in names)


def unequal(one: Mapping[str, bytes], two: Mapping[str, bytes]) -> list[str]:
    return sorted(name for name in {*one, *two} if one.get(name) != two.get(name))


def seconds(desk: Desk) -> float:
    """How long a run took, from its first event to its last."""
    lines = (output(desk) / "events.jsonl").read_bytes().splitlines()
    return float(json.loads(lines[-1])["time"] - json.loads(lines[0])["time"])


def logged(desk: Desk) -> int:
    """Bytes of a run's event log."""
    return (output(desk) / "events.jsonl").stat().st_size


def left_over(desk: Desk) -> list[str]:
    return sorted(path.relative_to(desk.root).as_posix() for path in output(desk).rglob(".tmp-*"))


def damage(desk: Desk, chance: random.Random) -> str:
    """Flips a byte of the newest checkpoint, or cuts one of its files; says what was done."""
    newest = list(checkpoints(desk).values())[-1]
    path = chance.choice(sorted(newest.iterdir()))
    data = bytearray(path.read_bytes())
    at = chance.randrange(len(data))
    if chance.random() < 0.3:
        path.write_bytes(data[:at])
        return f"{newest.name}/{path.name} cut to {at} bytes"
    data[at] ^= 1 << chance.randrange(8)
    path.write_bytes(data)
    return f"{newest.name}/{path.name}, byte {at} flipped"
