"""The checkpoint store: a folder per save that is whole and verified, or is not there.

``checkpoints/step-000100/`` holds ``adapter.safetensors``, ``optimizer.safetensors``, ``state.json`` and,
written last, ``manifest.json`` with each file's size and SHA-256. A save is written beside, made durable
file by file, renamed into place, and only then are older ones pruned. A manifest has one possible form for
what lies beside it, so that a folder is whole if and only if its manifest is that text, byte for byte.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_scripts.core.catalogue import say
from lora_scripts.core.files import (
    TEMPORARY,
    clear_unfinished,
    make_folders,
    sha256_of,
    sync_folder,
    write_durable,
)
from lora_scripts.export.tensors_file import read_tensors, write_tensors

if TYPE_CHECKING:
    import torch

VERSION = 1
ADAPTER, OPTIMIZER, STATE, MANIFEST = (
    "adapter.safetensors", "optimizer.safetensors", "state.json", "manifest.json",
)  # fmt: skip
WRITTEN = (ADAPTER, OPTIMIZER, STATE)
"""What a manifest vouches for."""


@dataclass(frozen=True)
class Snapshot:
    """What one checkpoint holds: adapter and optimizer tensors by name, and plain JSON state."""

    step: int
    adapter: Mapping[str, torch.Tensor]
    optimizer: Mapping[str, torch.Tensor]
    state: Mapping[str, Any]

    def not_finite(self) -> str | None:
        """The first tensor that holds a number that is not finite: such a state is never written."""
        for name, value in [*self.adapter.items(), *self.optimizer.items()]:
            if value.is_floating_point() and not bool(value.isfinite().all()):
                return name
        return None


class CheckpointStore:
    """The checkpoints of one run. ``identity`` is the digest of what the run is; others are not its own."""

    def __init__(self, folder: Path, *, identity: str, keep: int) -> None:
        self.folder = folder
        self.identity = identity
        self.keep = keep

    def path(self, step: int) -> Path:
        return self.folder / f"step-{step:06d}"

    def steps(self) -> list[int]:
        """Steps that have a folder, oldest first, whether whole or not."""
        found = [
            int(path.name.removeprefix("step-"))
            for path in self.folder.glob("step-*")
            if path.name.removeprefix("step-").isdigit()
        ]
        return sorted(found)

    def save(self, snapshot: Snapshot, *, pinned: Collection[int] = ()) -> Path:
        """Writes a checkpoint and prunes older ones; steps in ``pinned`` are kept whatever their age.

        Raises ``OSError`` where the disk refuses; what was there before is then untouched.
        """
        make_folders(self.folder)
        clear_unfinished(self.folder)  # only the holder of the run's lock saves
        temporary = self.folder / f"{TEMPORARY}{os.getpid()}-{snapshot.step:06d}"
        temporary.mkdir()
        try:
            self._write(temporary, snapshot)
            target = self.path(snapshot.step)
            if target.exists():  # a damaged one: a whole one of this step would not be written again
                shutil.rmtree(target)
            os.rename(temporary, target)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        sync_folder(self.folder)
        self._prune(snapshot.step, pinned)
        return target

    def _write(self, folder: Path, snapshot: Snapshot) -> None:
        state = json.dumps(dict(snapshot.state), sort_keys=True, indent=1).encode()
        write_durable(folder / ADAPTER, lambda handle: write_tensors(handle, snapshot.adapter))
        write_durable(folder / OPTIMIZER, lambda handle: write_tensors(handle, snapshot.optimizer))
        write_durable(folder / STATE, lambda handle: handle.write(state))
        text = _text(self._manifest(snapshot.step, folder))
        write_durable(folder / MANIFEST, lambda handle: handle.write(text))
        sync_folder(folder)

    def _manifest(self, step: int, folder: Path) -> dict[str, Any]:
        """What the manifest of the files in ``folder`` says. Raises OSError where one is missing."""
        files = {
            name: {"size": (folder / name).stat().st_size, "sha256": sha256_of(folder / name)}
            for name in WRITTEN
        }
        return {"version": VERSION, "identity": self.identity, "step": step, "files": files}

    def _prune(self, newest: int, pinned: Collection[int]) -> None:
        kept = set(self.steps()[-self.keep :]) | set(pinned) | {newest}
        self._remove([step for step in self.steps() if step not in kept])

    def _remove(self, steps: Collection[int]) -> None:
        """Renames first, durably: half of a checkpoint would look like a damaged one."""
        doomed = []
        for step in steps:
            with suppress(OSError):
                aside = self.folder / f"{TEMPORARY}removed-{step:06d}"
                os.rename(self.path(step), aside)
                doomed.append(aside)
        if doomed:
            sync_folder(self.folder)
        for aside in doomed:
            shutil.rmtree(aside, ignore_errors=True)

    def damage(self, step: int) -> str | None:
        """Why the checkpoint of ``step`` cannot be used, or None where every byte is as it was written."""
        folder = self.path(step)
        try:
            text = (folder / MANIFEST).read_bytes()
            expected = self._manifest(step, folder)
        except FileNotFoundError as error:
            return say("checkpoint.missing", name=Path(error.filename).name)
        except OSError as error:
            return error.strerror or str(error)
        return None if text == _text(expected) else _difference(text, expected)

    def newest(self) -> tuple[int | None, dict[int, str]]:
        """The newest whole checkpoint's step, and the damage of each newer one that was passed over."""
        damaged: dict[int, str] = {}
        for step in reversed(self.steps()):
            reason = self.damage(step)
            if reason is None:
                return step, damaged
            damaged[step] = reason
        return None, damaged

    def way_back(self, since: int, tried: Collection[int]) -> int | None:
        """The step of the checkpoint to go back to where windows went wrong from step ``since`` on: the
        newest whole one that a good window followed. Without any, the one that none followed, once."""
        whole = [each for each in self.steps() if each < since and self.damage(each) is None]
        proven = [each for each in whole if each < since - 1]
        return max(proven or set(whole) - set(tried), default=None)

    def give_up_after(self, step: int) -> None:
        """Removes what was saved after ``step``: the run goes on from there in another way."""
        self._remove([later for later in reversed(self.steps()) if later > step])

    def load(self, step: int) -> Snapshot:
        folder = self.path(step)
        return Snapshot(
            step,
            read_tensors(folder / ADAPTER),
            read_tensors(folder / OPTIMIZER),
            json.loads((folder / STATE).read_text(encoding="utf-8")),
        )

    def set_aside(self, step: int) -> Path:
        """Renames a damaged checkpoint, so that it is neither counted nor tried again, nor lost."""
        number = 1
        while (target := self.folder / f"damaged-{number}-step-{step:06d}").exists():
            number += 1
        self.path(step).rename(target)
        sync_folder(self.folder)
        return target


def _text(manifest: Mapping[str, Any]) -> bytes:
    return json.dumps(manifest, sort_keys=True, indent=1).encode()


def _difference(text: bytes, expected: Mapping[str, Any]) -> str:
    """What a manifest says that is not so, for a person to read."""
    try:
        told = json.loads(text)
        if told["version"] != VERSION:
            return say("checkpoint.version", version=told["version"], known=VERSION)
        if told["identity"] != expected["identity"] or told["step"] != expected["step"]:
            return say("checkpoint.of_another")
        for name, facts in expected["files"].items():
            if told["files"][name] != facts:
                return say("checkpoint.changed", name=name)
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    return say("checkpoint.changed", name=MANIFEST)
