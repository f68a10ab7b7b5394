"""The layout of a run's folder: an interface that other programs read, described in docs/run_folder.md."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ADAPTER_WEIGHTS, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
"""A text run's LoRA, under the names that PEFT, vLLM and llama.cpp look for."""
WEIGHTS = "pytorch_lora_weights.safetensors"


def cache_folder(given: str | None) -> Path:
    """The folder of ``cache_dir``, by default the system's own for this user."""
    if given is not None:
        return Path(given).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("lora-scripts", appauthor=False)


def _by_step(path: Path) -> tuple[int, str]:
    """A million steps have a digit more than six."""
    return len(path.name), path.name


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
        found = [path for path in self.root.glob("*.safetensors") if pattern.fullmatch(path.name)]
        return sorted(found, key=_by_step)

    @property
    def best_export(self) -> Path:
        return self.root / f"{self.name}-best.safetensors"

    def adapter(self, step: int | None = None) -> Path:
        """A text run's LoRA: ``output_dir`` itself, or ``<name>-step000100/`` for the save at a step."""
        return self.root if step is None else self.root / f"{self.name}-step{step:06d}"

    def step_adapters(self) -> list[Path]:
        """The LoRA folders of single saves, oldest first."""
        pattern = re.compile(re.escape(self.name) + r"-step\d{6,}")
        found = [path for path in self.root.glob("*") if path.is_dir() and pattern.fullmatch(path.name)]
        return sorted(found, key=_by_step)

    @property
    def best_adapter(self) -> Path:
        return self.root / f"{self.name}-best"

    def written(self) -> list[Path]:
        """Folders in which files are put in place by renaming; checkpoints have their own way."""
        return [self.root, *self.step_adapters(), self.best_adapter, self.previews]

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
    def tracker_ids(self) -> Path:
        """What each tracker calls this run, by the tracker's name."""
        return self.root / "trackers.json"

    @property
    def tracker_files(self) -> Path:
        """What trackers' libraries keep on disk."""
        return self.root / "trackers"

    @property
    def lock(self) -> Path:
        return self.root / ".lock"

    @property
    def heartbeat(self) -> Path:
        return self.root / "heartbeat"
