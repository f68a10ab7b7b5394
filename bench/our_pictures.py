"""One measured picture run of lora-scripts, in a process of its own: `python -m bench.our_pictures job.json`.

The same path as `lora-scripts train` (config, checks, cache, session, loop); only the meter watches.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any


def settings(job: dict[str, Any]) -> dict[str, Any]:
    """The job as a configuration; what it does not name stays at this project's defaults."""
    return {
        "train_data_dir": job["pictures"],
        "base_model": job["base"],
        "output_dir": job["output"],
        "cache_dir": str(Path(job["output"]) / "cache"),
        "resolution": job["resolution"],
        "lora_rank": job["rank"],
        "lora_alpha": job["rank"],
        "target_modules": "attention",
        "batch_size": job["batch_size"],
        "learning_rate": job["learning_rate"],
        "max_steps": job["steps"],
        "seed": job["seed"],
        "validation": {"split": 0},
        **job.get("overrides", {}),
    }


def main() -> int:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    import torch

    from lora_scripts.config.schema import RunConfig
    from lora_scripts.core.control import Control
    from lora_scripts.core.events import Event, StepDone
    from lora_scripts.core.problems import raise_errors
    from lora_scripts.preflight.prepare import prepare
    from lora_scripts.training.loop import fit
    from lora_scripts.training.precision import resolve_mode
    from lora_scripts.training.session import open_session, pick_device, resolve
    from lora_scripts.training.state import TrainingState

    torch.set_num_threads(1)
    prepared = prepare(RunConfig.model_validate(settings(job)))
    raise_errors(prepared.problems)
    device = pick_device()
    config = resolve(prepared, resolve_mode(prepared.config.mixed_precision, device))
    session = open_session(prepared, config, {}, device, lambda phase, done, total: None)
    marks: list[tuple[float, int]] = []
    losses: list[float | None] = []

    def meter(event: Event) -> None:
        if isinstance(event, StepDone):
            marks.append((time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))
            losses.append(event.loss)

    if profile := job.get("profile"):
        from torch.profiler import ProfilerActivity
        from torch.profiler import profile as watch

        with watch(activities=[ProfilerActivity.CPU]) as seen:
            fit(session.job, TrainingState(), meter, Control())
        Path(profile).write_text(seen.key_averages().table(sort_by="self_cpu_time_total", row_limit=40))
    else:
        fit(session.job, TrainingState(), meter, Control())
    names = ("torch", "diffusers", "peft")
    result = {
        "cpu_seconds": [mark[0] for mark in marks],
        "peak_bytes": [mark[1] * 1024 for mark in marks],
        "losses": losses,
        "modules": sum(map(len, session.adapter.matched.values())),
        "trainable": session.adapter.count(),
        "settings": {
            "mixed_precision": config.mixed_precision,
            "gradient_checkpointing": config.gradient_checkpointing,
        },
        "versions": {name: version(name) for name in names} | {"lora-scripts": version("lora-scripts")},
    }
    Path(job["result"]).write_text(json.dumps(result), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
