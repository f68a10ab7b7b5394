"""Cards, driver, torch's build, number formats and 8-bit kernels: what would fail or crawl later."""

from __future__ import annotations

import re

from lora_scripts.config.schema import RunConfig
from lora_scripts.core.packages import older, requirements
from lora_scripts.core.problems import Problem, Severity
from lora_scripts.preflight.machine import Gpu, Machine, Torch, Version

BF16_CAPABILITY = (8, 0)
LOWEST_OF_CUDA = {13: (7, 5), 12: (5, 0)}
"""CUDA's major version -> the oldest card that its compiler knows, for a torch that was not asked itself."""


def check_hardware(machine: Machine, config: RunConfig) -> list[Problem]:
    problems = _cards(machine, config)
    if not problems:
        problems = _card_formats(machine, config)
    asked = []
    if config.optimizer == "adamw8bit":
        asked.append(("optimizer: adamw8bit", "optimizer: adamw"))
    if config.quantization != "none":
        asked.append((f"quantization: {config.quantization}", "quantization: none"))
    for setting, instead in asked:
        problems += _bitsandbytes(machine, setting, instead)
    return problems


def _cards(machine: Machine, config: RunConfig) -> list[Problem]:
    """Whether torch can use the cards at all; the first thing that stands in the way is the one to say."""
    torch, gpus = machine.torch, machine.gpus
    if torch is None or torch.other or not machine.nvidia_card:
        return []
    if not gpus:
        return [Problem("LS3011", {}, severity="warning")]
    if torch.cuda is None:
        # The small built-in base is made for a processor; anything larger would crawl for days.
        severity: Severity = "warning" if config.base_model.startswith("builtin:") else "error"
        told = {"card": gpus[0].name, "version": torch.version, "command": f"{machine.setup_command} --cuda"}
        return [Problem("LS3008", told, severity=severity)]
    if machine.driver_cuda and machine.driver_cuda[0] < torch.cuda[0]:
        told = {
            "driver": machine.driver or "?",
            "driver_cuda": _dotted(machine.driver_cuda),
            "torch": torch.version,
            "torch_cuda": _dotted(torch.cuda),
            "command": f"{machine.setup_command} --cuda",
        }
        return [Problem("LS3004", told)]
    return [problem for gpu in gpus if (problem := _capability(gpu, torch, machine))]


def _capability(gpu: Gpu, torch: Torch, machine: Machine) -> Problem | None:
    told = {
        "card": gpu.name,
        "capability": _dotted(gpu.capability),
        "torch": torch.version,
        "command": f"{machine.setup_command} --cuda",
    }
    if torch.architectures is None:
        lowest = LOWEST_OF_CUDA.get(torch.cuda[0]) if torch.cuda else None
        return Problem("LS3005", told) if lowest and gpu.capability < lowest else None
    built = [(kind, _architecture(digits)) for kind, digits in map(_split, torch.architectures) if digits]
    if not built or any(_runs(kind, version, gpu.capability) for kind, version in built):
        return None
    newest = max(version for _, version in built)
    return Problem("LS3006" if gpu.capability > newest else "LS3005", told)


def _split(architecture: str) -> tuple[str, str]:
    match = re.match(r"(sm|compute)_(\d+)", architecture)
    return (match[1], match[2]) if match else ("", "")


def _architecture(digits: str) -> Version:
    return int(digits[:-1]), int(digits[-1])


def _runs(kind: str, built: Version, capability: Version) -> bool:
    """Machine code runs within its major version, upwards; intermediate code runs on anything newer."""
    if kind == "compute":
        return built <= capability
    return built[0] == capability[0] and built <= capability


def _card_formats(machine: Machine, config: RunConfig) -> list[Problem]:
    if machine.torch is None or machine.torch.cuda is None:
        return []
    problems = []
    wanted = config.num_processes
    if isinstance(wanted, int) and machine.gpus and wanted > len(machine.gpus):
        problems.append(Problem("LS3007", {"wanted": wanted, "found": len(machine.gpus)}))
    if config.mixed_precision == "bf16":
        old = [gpu for gpu in machine.gpus if gpu.capability < BF16_CAPABILITY]
        if old:
            told = {"card": old[0].name, "capability": _dotted(old[0].capability)}
            problems.append(Problem("LS3009", told))
    return problems


def _bitsandbytes(machine: Machine, setting: str, instead: str) -> list[Problem]:
    """Whether the ``setting`` that needs it has it; ``instead`` goes without."""
    have, lowest = machine.packages.get("bitsandbytes"), requirements()["bitsandbytes"]
    command = machine.setup_command
    if have is None or older(have, lowest):
        told = {"setting": setting, "found": have or "-", "minimum": lowest}
        return [Problem("LS3010", {**told, "command": command, "instead": instead})]
    cuda = machine.torch.cuda if machine.torch and machine.gpus else None
    majors = {name[4:6] for name in machine.bitsandbytes if name.startswith("cuda")}
    if str(cuda[0]) not in majors if cuda else "cpu" not in machine.bitsandbytes:
        target = f"CUDA {_dotted(cuda)}" if cuda else "CPU"
        told = {"version": have, "target": target, "command": command, "instead": instead}
        return [Problem("LS3012", told)]
    if machine.packages.get("kernels") is not None:
        return [Problem("LS3013", {}, severity="warning")]
    return []


def _dotted(version: Version) -> str:
    return ".".join(map(str, version))
