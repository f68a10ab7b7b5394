"""What a run writes down about itself: its resolved config, its environment, its result."""

from __future__ import annotations

import json
import platform
import socket
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lora_scripts import __version__
from lora_scripts.config.load import dump_yaml
from lora_scripts.config.schema import RunConfig, harmless_keys, meant
from lora_scripts.core.files import write_atomic
from lora_scripts.core.paths import RunFolder

from .state import TrainingState

VERSIONED = ("torch", "diffusers", "transformers", "peft", "bitsandbytes", "safetensors", "numpy", "pillow")


def versions() -> dict[str, str]:
    """Versions that shape the numbers of a run; the same on the same installation, so fit for a header."""
    found = {"lora-scripts": __version__, "python": platform.python_version()}
    for name in VERSIONED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def config_values(config: RunConfig) -> dict[str, Any]:
    """The config as plain values, without what is unset or another task's: what a YAML of it holds."""
    return meant(config, {"validation.split"} if config.validation.data_dir is not None else ())


LENGTH = frozenset({"epochs", "max_steps"})


def experiment_values(config: RunConfig) -> dict[str, Any]:
    """What a file's header keeps: the keys that shape what is learnt, and none that only watch or save.

    So a LoRA has the same bytes whether or not its run was saved, previewed or logged on the way.
    """
    left_out = harmless_keys() - LENGTH | {"output_dir"}
    if config.validation.data_dir is not None:
        left_out |= {"validation.split"}
    return meant(config, left_out)


def write_config(config: RunConfig, folder: RunFolder) -> None:
    """``config.yaml``, which repeats the run."""
    write_atomic(folder.config, dump_yaml(config_values(config)))


def write_start(config: RunConfig, folder: RunFolder, device: Any) -> None:
    """``config.yaml``, and ``environment.json``, which holds all that is volatile."""
    write_config(config, folder)
    environment = {
        "versions": versions(),
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "command": sys.argv,
        "folder": str(Path.cwd()),
        "device": _device_name(device),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    write_atomic(folder.environment, _json(environment))


def _device_name(device: Any) -> str:
    if device.type == "cuda":
        import torch

        return str(torch.cuda.get_device_name(device))
    return platform.processor() or platform.machine()


def write_result(folder: RunFolder, state: TrainingState, status: str, **more: Any) -> None:
    """``result.json``: what a demo, a search or a page asks about a run that has ended."""
    result = {
        "status": status,
        "step": state.step,
        "updates": state.updates,
        "skipped": state.skipped,
        "rollbacks": len(state.rollbacks),
        "train_loss": state.last_loss,
        "validation_loss_before": state.loss_before,
        "validation_loss_after": state.loss_after,
        "validation_loss_best": state.best_loss,
        "best_step": state.best_step,
        **{f"{name}_before": value for name, value in state.metrics_before.items()},
        **{f"{name}_after": value for name, value in state.metrics_after.items()},
        **more,
    }
    write_atomic(folder.result, _json(result))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1, sort_keys=True) + "\n"
