"""``lora-scripts env``: versions and devices in a few lines, for a report. No names, no tokens."""

from __future__ import annotations

import typer

from lora_scripts.core.catalogue import say


def env() -> None:
    for line in describe_environment():
        typer.echo(line)


def describe_environment() -> list[str]:
    import sys
    from pathlib import Path

    from lora_scripts import __version__
    from lora_scripts.preflight.machine import Machine

    machine = Machine.probe()
    python = ".".join(map(str, machine.python))
    platform = f"{machine.system} {machine.architecture}"
    room = {
        "free": _gib(machine.memory_free),
        "total": _gib(machine.memory_total),
        "disk": _gib(machine.free_disk(Path.cwd())),
    }
    lines = [
        f"lora-scripts {__version__}",
        say("cli.env.python", version=python, platform=platform, path=sys.executable),
        say("cli.env.memory", cores=machine.cores, **room),
    ]
    if machine.torch and machine.torch.cuda:
        lines.append(say("cli.env.torch", cuda=".".join(map(str, machine.torch.cuda))))
    elif machine.torch and not machine.torch.other:
        lines.append(say("cli.env.torch_cpu"))
    if machine.driver and machine.driver_cuda:
        cuda = ".".join(map(str, machine.driver_cuda))
        lines.append(say("cli.env.driver", version=machine.driver, cuda=cuda))
    for index, gpu in enumerate(machine.gpus):
        told = {"free": _gib(gpu.free), "total": _gib(gpu.total)}
        capability = ".".join(map(str, gpu.capability))
        lines.append(say("cli.env.gpu", index=index, name=gpu.name, capability=capability, **told))
    if not machine.gpus:
        lines.append(say("cli.env.no_gpu"))
    absent = say("cli.env.absent")
    return lines + [f"{name} {version or absent}" for name, version in sorted(machine.packages.items())]


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f}"
