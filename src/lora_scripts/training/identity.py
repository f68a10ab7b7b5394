"""What makes two runs the same experiment, and what a run folder may be used for."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lora_scripts.config.schema import RunConfig, flatten, foreign_keys, harmless_keys
from lora_scripts.core.files import write_atomic
from lora_scripts.core.paths import RunFolder
from lora_scripts.core.problems import Problem, ProblemsError
from lora_scripts.data.fingerprint import differences as picture_differences
from lora_scripts.data.text_fingerprint import differences as text_differences

PLACES = frozenset(
    {"train_data_dir", "metadata_path", "datasets", "base_model", "components", "output_dir", "output_name",
     "chat_template", "validation.data_dir", "loss_mask"}
)  # fmt: skip
"""Keys that say where something is. What is there counts, through the fingerprints."""


@dataclass(frozen=True)
class Identity:
    """``config``: resolved values that shape what is learnt. ``base`` and ``data``: content fingerprints."""

    config: Mapping[str, Any]
    base: Mapping[str, Any]
    data: Mapping[str, Any]

    @classmethod
    def of(cls, config: RunConfig, base: Mapping[str, Any], data: Mapping[str, Any]) -> Identity:
        left_out = harmless_keys() | PLACES | foreign_keys(config.task_type)
        values = {key: value for key, value in flatten(config.model_dump()).items() if key not in left_out}
        return cls(values, base, data)

    @property
    def digest(self) -> str:
        text = json.dumps(
            [dict(self.config), dict(self.base), dict(self.data)], sort_keys=True, ensure_ascii=False
        )
        return hashlib.sha256(text.encode()).hexdigest()

    def write(self, folder: RunFolder) -> None:
        write_atomic(folder.data, _json(self.data))
        write_atomic(
            folder.identity, _json({"digest": self.digest, "config": self.config, "base": self.base})
        )

    def differences(self, folder: RunFolder) -> list[str]:
        """One line for each thing in which the run in ``folder`` differs from this one."""
        stored = json.loads(folder.identity.read_text(encoding="utf-8"))
        lines = [
            f"{key}: {stored['config'].get(key)} → {self.config.get(key)}"
            for key in sorted(set(stored["config"]) | set(self.config))
            if stored["config"].get(key) != self.config.get(key)
        ]
        if stored["base"] != json.loads(_json(self.base)):
            lines.append("base_model")
        before = json.loads(folder.data.read_text(encoding="utf-8"))
        if before.get("kind") != self.data.get("kind"):
            return [*lines, "task_type"]
        compare: Any = text_differences if self.data.get("kind") == "text" else picture_differences
        return lines + compare(before, self.data).lines()


def _json(value: Any) -> str:
    return json.dumps(
        value, sort_keys=True, ensure_ascii=False, indent=1, default=lambda mapping: dict(mapping)
    )


Start = Literal["fresh", "resume"]


def claim(folder: RunFolder, identity: Identity, *, resume: str) -> Start:
    """Decides what ``output_dir`` may be used for; called with its lock held.

    A run of the same identity that is not finished goes on. Raises ``ProblemsError``: LS5002 a finished run,
    LS5003 another identity (with all differences), LS5004 an unfinished one that may not be resumed.
    """
    if not folder.identity.exists():
        identity.write(folder)
        return "fresh"
    path = str(folder.root)
    if is_finished(folder):
        raise ProblemsError(Problem("LS5002", {"path": path}))
    if lines := identity.differences(folder):
        raise ProblemsError(Problem("LS5003", {"path": path, "differences": "\n      ".join(lines)}))
    if resume == "never":
        raise ProblemsError(Problem("LS5004", {"path": path}))
    return "resume"


def is_finished(folder: RunFolder) -> bool:
    try:
        return bool(json.loads(folder.result.read_text(encoding="utf-8"))["status"] == "finished")
    except (OSError, ValueError, KeyError, TypeError):
        return False


def move_aside(root: Path) -> Path | None:
    """Renames a used run folder to the first free ``<name>.old-N``; None where there was nothing to move."""
    if not root.exists() or not any(root.iterdir()):
        return None
    number = 1
    while (target := root.with_name(f"{root.name}.old-{number}")).exists():
        number += 1
    root.rename(target)
    return target
