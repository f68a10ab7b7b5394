"""The layout of a run's folder: an interface that other programs read, described in docs/run_folder.md."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

WEIGHTS = "pytorch_lora_weights.safetensors"


@dataclass(frozen=True)
class RunFolder:
    """Names every file below ``output_dir``; nothing else in the project joins these paths."""

    root: Path
    name: str

    @property
    def weights(self) -> Path:
        return self.root / WEIGHTS

    def export(self, step: int | None = None) -> Path:
        """``<name>.safetensors``, or ``<name>-step000100.safetensors`` for the save at a step."""
        suffix = "" if step is None else f"-step{step:06d}"
        return self.root / f"{self.name}{suffix}.safetensors"

    def step_exports(self) -> list[Path]:
        """Exports of single saves, oldest first."""
        pattern = re.compile(re.escape(self.name) + r"-step\d{6,}\.safetensors")
        return sorted(path for path in self.root.glob("*.safetensors") if pattern.fullmatch(path.name))

    @property
    def best_export(self) -> Path:
        return self.root / f"{self.name}-best.safetensors"

    @property
    def card(self) -> Path:
        return self.root / "README.md"

    @property
    def config(self) -> Path:
        return self.root / "config.yaml"

    @property
    def environment(self) -> Path:
        return self.root / "environment.json"

    @property
    def data(self) -> Path:
        return self.root / "data.json"

    @property
    def identity(self) -> Path:
        return self.root / "identity.json"

    @property
    def result(self) -> Path:
        return self.root / "result.json"

    @property
    def events(self) -> Path:
        return self.root / "events.jsonl"

    @property
    def control(self) -> Path:
        return self.root / "control"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def previews(self) -> Path:
        return self.root / "previews"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def lock(self) -> Path:
        return self.root / ".lock"

    @property
    def heartbeat(self) -> Path:
        return self.root / "heartbeat"
