"""Runs that meet a fault at a moment of our choosing: the desks of the contract's tests, disks that fill up,
turn read-only or vanish, and hooks that say when."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lora_scripts.core.events import StepDone
from lora_scripts.core.files import sha256_of
from lora_scripts.preflight.checks import paths
from lora_scripts.training.callbacks.saving import Saving
from tests.contract.conftest import (  # noqa: F401 - fixtures
    ROOT,
    Desk,
    environment,
    make_desk,
    make_text_desk,
    tiny_base,
    tiny_chat_base,
)

TASKS = ("make_desk", "make_text_desk")


@pytest.fixture(params=[pytest.param(TASKS[0], marks=pytest.mark.long), TASKS[1]], ids=["pictures", "texts"])
def any_desk(request):
    """A desk of each task, pictures among the long tests."""
    return request.getfixturevalue(request.param)()


@pytest.fixture(params=[pytest.param(TASKS[0], marks=pytest.mark.slow), TASKS[1]], ids=["pictures", "texts"])
def either_desk(request):
    """The same, pictures among the slow tests: what is tested is the same code for both."""
    return request.getfixturevalue(request.param)()


def start(desk: Desk, config: Path, *, first: str = "", **options: object) -> subprocess.Popen[str]:
    """``train.py --config`` in a process of its own; what it says comes through one pipe. ``first``: Python
    that is run in the process before."""
    script = f"{first}\nfrom lora_scripts.cli.main import run\nraise SystemExit(run())"
    program = ["-c", script, "train"] if first else [str(ROOT / "train.py")]
    command = [sys.executable, *program, "--config", str(config)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, cwd=desk.root, env=environment(), text=True, **(pipes | options))


def wait_for(path: Path, process: subprocess.Popen[str], seconds: int = 120) -> None:
    for _ in range(seconds * 20):
        if path.exists():
            return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    raise AssertionError(f"{path} did not appear")


def whole_checkpoints(folder: Path) -> list[int]:
    """Steps whose every file has the size and hash that the manifest says."""
    found = []
    for manifest in sorted(folder.glob("checkpoints/step-*/manifest.json")):
        told = json.loads(manifest.read_text(encoding="utf-8"))
        parts = [(manifest.parent / name, facts) for name, facts in told["files"].items()]
        if all(part.stat().st_size == facts["size"] for part, facts in parts) and all(
            sha256_of(part) == facts["sha256"] for part, facts in parts
        ):
            found.append(told["step"])
    return found


def weights(folder: Path) -> bytes:
    """The finished LoRA of either task."""
    names = ("pytorch_lora_weights.safetensors", "adapter_model.safetensors")
    return next((folder / name).read_bytes() for name in names if (folder / name).exists())


@pytest.fixture
def at_step(monkeypatch) -> Callable[[dict[int, Callable[[], object]]], None]:
    """``at_step({4: act})``: ``act()`` when step 4 is done, before anything of it is saved."""
    real = Saving.__call__

    def plan(acts: dict[int, Callable[[], object]]) -> None:
        def hooked(self, event, step):
            if isinstance(event, StepDone) and step in acts:
                acts[step]()
            real(self, event, step)

        monkeypatch.setattr(Saving, "__call__", hooked)

    return plan


def mounted(*words: object) -> None:
    subprocess.run(["mount", *map(str, words)], check=True, capture_output=True)


def may_mount(place: Path) -> bool:
    """Whether this user may put a disk of its own there; containers without the right refuse root too."""
    if os.name == "nt" or os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "none", place], capture_output=True, check=False).returncode:
        return False
    subprocess.run(["umount", place], check=True)
    return True


@dataclass
class Disk:
    """A small disk of its own at ``root``."""

    root: Path

    def fill(self) -> None:
        """Takes every byte that is left."""
        with open(self.root / "filler", "wb", buffering=0) as filler:
            try:
                for size in (2**16, 2**12, 1):
                    while filler.write(b"x" * size) == size:
                        pass
            except OSError:
                pass

    def clear(self) -> None:
        (self.root / "filler").unlink(missing_ok=True)

    def turn_read_only(self) -> None:
        """Whatever is opened from now on; what is open stays so, or the system would not allow it."""
        mounted("--bind", self.root, self.root)
        for left in reversed(range(50)):  # a thread may have a file open that it opened between the two
            try:
                return mounted("-o", "remount,bind,ro", self.root)
            except subprocess.CalledProcessError:
                if not left:
                    raise
            time.sleep(0.1)

    def turn_writable(self) -> None:
        subprocess.run(["umount", "-l", str(self.root)], check=True)

    def vanish(self) -> None:
        """As a disk that is pulled out: its folder is there, and empty."""
        subprocess.run(["umount", "-l", str(self.root)], check=True)


@pytest.fixture
def tiny_disk(tmp_path) -> Iterator[Disk]:
    """A disk of 24 MiB."""
    if not may_mount(tmp_path / "tried"):
        pytest.skip("only root may mount a disk")
    root = tmp_path / "disk"
    root.mkdir()
    mounted("-t", "tmpfs", "-o", "size=24m", "none", root)
    try:
        yield Disk(root)
    finally:
        while os.path.ismount(root):
            subprocess.run(["umount", "-l", str(root)], check=True)


@pytest.fixture
def disk(tiny_disk, monkeypatch) -> Disk:
    """The same, and a run is let onto it though it is small."""
    monkeypatch.setattr(paths, "SMALL_RUN", 0)
    monkeypatch.setattr(paths, "BYTES_PER_RANK", 0)
    return tiny_disk
