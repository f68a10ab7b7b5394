"""The machine as the checks see it: one frozen object, so that any machine can be faked."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lora_scripts.core.packages import TRACKERS, installed, installed_version

Version = tuple[int, ...]


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA card that this process may use; memory in bytes, ``uuid`` as the driver names it."""

    name: str
    capability: Version
    total: int
    free: int
    uuid: str = ""


@dataclass(frozen=True)
class Torch:
    """The installed torch, read from its files without importing it.

    ``cuda`` is the CUDA version that it is built for. ``other`` says that it is built for another maker's
    cards. ``architectures`` (``sm_80``, ``compute_90``) is None where torch was not asked.
    """

    version: str
    cuda: Version | None = None
    other: bool = False
    architectures: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Machine:
    """What a run depends on outside of its own files. Memory in bytes."""

    python: Version
    system: str
    architecture: str
    packages: Mapping[str, str | None]
    torch: Torch | None
    bitsandbytes: frozenset[str]
    gpus: tuple[Gpu, ...]
    nvidia_card: bool
    driver: str | None
    driver_cuda: Version | None
    memory_total: int
    memory_free: int
    cores: int
    cpu_flags: frozenset[str]
    free_disk: Callable[[Path], int]
    writable: Callable[[Path], bool]

    @property
    def setup_command(self) -> str:
        """What the user types to set the project up anew on this system."""
        return r"python scripts\setup.py" if self.system == "Windows" else "python3 scripts/setup.py"

    @classmethod
    def probe(cls, *, with_torch: bool = False) -> Machine:
        """Looks at this machine. ``with_torch`` imports torch, to ask which cards it is built for."""
        import psutil

        memory = psutil.virtual_memory()
        gpus, driver, driver_cuda = _nvidia()
        torch = _torch()
        if with_torch and torch and torch.cuda and gpus:
            torch = Torch(torch.version, torch.cuda, torch.other, _torch_architectures())
        return cls(
            python=tuple(sys.version_info[:3]),
            system=platform.system(),
            architecture=platform.machine(),
            packages=installed() | {name: installed_version(name) for name in _others()},
            torch=torch,
            bitsandbytes=_bitsandbytes_libraries(),
            gpus=gpus,
            nvidia_card=bool(gpus) or (not _hidden() and _nvidia_on_bus()),
            driver=driver,
            driver_cuda=driver_cuda,
            memory_total=memory.total,
            memory_free=memory.available,
            cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
            cpu_flags=_cpu_flags(),
            free_disk=free_disk,
            writable=writable,
        )


def _others() -> tuple[str, ...]:
    """Distributions that do not come with the project and that checks ask for."""
    return ("kernels", *(name for name, _ in TRACKERS.values()))


def existing_parent(path: Path) -> Path:
    """``path`` itself, or the nearest folder above it that exists."""
    path = Path(os.path.abspath(path.expanduser()))
    return next((parent for parent in (path, *path.parents) if parent.exists()), path)


def free_disk(path: Path) -> int:
    """Bytes that this user may still write at ``path``, which need not exist yet."""
    return shutil.disk_usage(existing_parent(path)).free


def writable(path: Path) -> bool:
    """Whether a file can be made in ``path`` or, where that is missing, above it. Leaves nothing behind.

    Making one is the only answer that holds for read-only disks, network drives and Windows alike.
    """
    try:
        with tempfile.TemporaryFile(dir=existing_parent(path)):
            return True
    except OSError:
        return False


def _torch() -> Torch | None:
    spec = find_spec("torch")
    if spec is None or not spec.origin:
        return None
    try:
        text = (Path(spec.origin).parent / "version.py").read_text(encoding="utf-8")
    except OSError:
        return None

    def value(name: str) -> str | None:
        match = re.search(rf"^{name}\b[^=\n]*= *['\"]([^'\"]+)['\"]", text, re.MULTILINE)
        return match[1] if match else None

    cuda = value("cuda")
    return Torch(
        version=value("__version__") or "0",
        cuda=_numbers(cuda) if cuda else None,
        other=bool(value("hip") or value("xpu")),
    )


def _torch_architectures() -> tuple[str, ...]:
    import torch

    return tuple(torch.cuda.get_arch_list())


def _bitsandbytes_libraries() -> frozenset[str]:
    """The kernels that bitsandbytes brings, such as ``cpu`` and ``cuda130``; empty where it is absent."""
    spec = find_spec("bitsandbytes")
    if spec is None or not spec.origin:
        return frozenset()
    names = (path.name for path in Path(spec.origin).parent.glob("libbitsandbytes_*"))
    return frozenset(name.removeprefix("libbitsandbytes_").partition(".")[0] for name in names)


def _numbers(text: str) -> Version:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:2])


def _hidden() -> bool:
    """Whether the user hides every card from this process on purpose."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1")


def _nvidia() -> tuple[tuple[Gpu, ...], str | None, Version | None]:
    """The visible cards, the driver's version and the newest CUDA that it runs; nothing without a driver."""
    try:
        import pynvml
    except ImportError:
        return (), None, None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return (), None, None
    try:
        driver = str(pynvml.nvmlSystemGetDriverVersion())
        number = pynvml.nvmlSystemGetCudaDriverVersion_v2()
        cards = [_gpu(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount())]
        return _visible(cards), driver, (number // 1000, number % 1000 // 10)
    except pynvml.NVMLError:
        return (), None, None
    finally:
        pynvml.nvmlShutdown()


def _gpu(nvml: Any, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    return Gpu(
        name=str(nvml.nvmlDeviceGetName(handle)),
        capability=tuple(nvml.nvmlDeviceGetCudaComputeCapability(handle)),
        total=int(memory.total),
        free=int(memory.free),
        uuid=str(nvml.nvmlDeviceGetUUID(handle)),
    )


def _visible(cards: list[Gpu]) -> tuple[Gpu, ...]:
    """The cards that ``CUDA_VISIBLE_DEVICES`` leaves, in its order, up to its first wrong word (as CUDA)."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return tuple(cards)
    found: list[Gpu] = []
    for word in (part.strip() for part in chosen.split(",")):
        if word.isdigit() and int(word) < len(cards):
            found.append(cards[int(word)])
        elif match := [card for card in cards if word and card.uuid.startswith(word)]:
            found.append(match[0])
        else:
            break
    return tuple(found)


def _nvidia_on_bus() -> bool:
    """Whether a display card of NVIDIA's is plugged in, with or without a driver. Only Linux tells."""
    for device in Path("/sys/bus/pci/devices").glob("*"):
        try:
            vendor, kind = (device / "vendor").read_text().strip(), (device / "class").read_text().strip()
        except OSError:
            continue
        if vendor == "0x10de" and kind.startswith("0x03"):
            return True
    return False


@lru_cache
def _cpu_flags() -> frozenset[str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    match = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", text, re.MULTILINE)
    return frozenset(match[1].split()) if match else frozenset()
