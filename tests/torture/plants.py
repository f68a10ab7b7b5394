"""Defects planted on purpose: what `make torture` must find, or it would prove nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Plant:
    """``into_product`` changes the program in this process; ``meant`` says what it breaks."""

    meant: str
    into_product: Callable[[], None]


def _no_fsync() -> None:
    from lora_scripts.core import files

    def write_durable(path: Any, write: Any) -> None:
        with open(path, "wb") as handle:
            write(handle)

    def sync_folder(folder: Any) -> None:
        pass

    # by their code, so that whoever has imported them by name has the defect too
    files.write_durable.__code__ = write_durable.__code__
    files.sync_folder.__code__ = sync_folder.__code__


def _unchecked_manifest() -> None:
    from lora_scripts.training.checkpoint import CheckpointStore

    def damage(self: CheckpointStore, step: int) -> str | None:
        return None if self.path(step).exists() else "missing"

    CheckpointStore.damage = damage  # type: ignore[method-assign]


PLANTS = {
    "no-fsync": Plant("nothing waits for the disk", _no_fsync),
    "unchecked-manifest": Plant("a checkpoint is taken for whole because it is there", _unchecked_manifest),
}
