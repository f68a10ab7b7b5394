"""One measured picture run of lora-scripts, in a process of its own: `python -m bench.our_pictures job.json`.

The same path as `lora-scripts train` (config, checks, cache, session, loop); only the meter watches.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from bench.our_run import Meter, open_run, versions


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
    from lora_scripts.core.control import Control
    from lora_scripts.training.loop import fit
    from lora_scripts.training.state import TrainingState

    session, _ = open_run(settings(job))
    meter = Meter()
    if profile := job.get("profile"):
        from torch.profiler import ProfilerActivity
        from torch.profiler import profile as watch

        with watch(activities=[ProfilerActivity.CPU]) as seen:
            fit(session.job, TrainingState(), meter, Control())
        Path(profile).write_text(seen.key_averages().table(sort_by="self_cpu_time_total", row_limit=40))
    else:
        fit(session.job, TrainingState(), meter, Control())
    result = {
        **meter.figures(),
        "modules": sum(map(len, session.adapter.matched.values())),
        "trainable": session.adapter.count(),
        "settings": {
            "mixed_precision": session.config.mixed_precision,
            "gradient_checkpointing": session.config.gradient_checkpointing,
        },
        "versions": versions("torch", "diffusers", "peft"),
    }
    Path(job["result"]).write_text(json.dumps(result), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
