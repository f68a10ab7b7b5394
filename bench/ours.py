"""One measured run of lora-scripts, in a process of its own: `python -m bench.ours job.json`.

The same path as `lora-scripts train` (config, checks, session, loop), with nothing watching but the meter.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from bench.our_run import Meter, open_run, versions

PEFT_PREFIX = "base_model."
"""What PEFT puts in front of our parameter names, which begin with the component's own ``model.``."""


def settings(job: dict[str, Any]) -> dict[str, Any]:
    """The job as a configuration; what it does not name stays at this project's defaults."""
    return {
        "task_type": "text-generation",
        "train_data_dir": str(Path(job["rows"]).parent),
        "metadata_path": job["rows"],
        "base_model": job["base"],
        "output_dir": job["output"],
        "cache_dir": str(Path(job["output"]) / "cache"),
        "lora_rank": job["rank"],
        "lora_alpha": job["alpha"],
        "batch_size": job["batch_size"],
        "learning_rate": job["learning_rate"],
        "weight_decay": 0.0,
        "max_length": job["max_length"],
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

    session, report = open_run(settings(job))
    meter = Meter()
    order = [
        [
            int(report.train[index])
            for micro in session.job.batches.plan.window(step)[1]
            for index in micro.indices
        ]
        for step in range(job["steps"])
    ]
    keep(session.adapter.parameters, Path(job["start"]))
    if not job.get("order_only"):
        fit(session.job, TrainingState(), meter, Control())
        keep(session.adapter.parameters, Path(job["adapter"]))
    result = {
        **meter.figures(),
        "tokens": [sum(int(report.table.lengths[row]) for row in rows) for rows in order],
        "order": [[report.table.place(row).line for row in rows] for rows in order],
        "settings": {
            "mixed_precision": session.config.mixed_precision,
            "gradient_checkpointing": session.config.gradient_checkpointing,
            "packing": session.config.packing,
            "target_modules": session.config.target_modules,
        },
        "trainable": session.adapter.count(),
        "versions": versions("torch", "transformers", "peft"),
    }
    Path(job["result"]).write_text(json.dumps(result), encoding="utf-8")
    return 0


def keep(parameters: Any, path: Path) -> None:
    """Writes the adapter under PEFT's names."""
    import torch
    from safetensors.torch import save_file

    tensors = {
        PEFT_PREFIX + name: value.detach().to(torch.float32).clone() for name, value in parameters.items()
    }
    save_file(tensors, path)


if __name__ == "__main__":
    sys.exit(main())
