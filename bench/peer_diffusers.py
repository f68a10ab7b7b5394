"""One measured run of Diffusers' `train_text_to_image_lora.py`, in the peers' own environment:
`python bench/peer_diffusers.py job.json`.

The script runs as it is, in its defaults but for what the job names; only its optimizer's steps are watched.
"""

from __future__ import annotations

import json
import resource
import runpy
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any


def words(job: dict[str, Any]) -> list[str]:
    given = {
        "pretrained_model_name_or_path": job["base"],
        "train_data_dir": job["pictures"],
        "output_dir": job["output"],
        "cache_dir": str(Path(job["output"]) / "cache"),
        "resolution": job["resolution"],
        "rank": job["rank"],
        "train_batch_size": job["batch_size"],
        "learning_rate": job["learning_rate"],
        "max_train_steps": job["steps"],
        "seed": job["seed"],
        **job.get("overrides", {}),
    }
    return [word for name, value in given.items() for word in (f"--{name}", str(value))]


def make_transforms_importable() -> None:
    """The script uses torchvision's transforms of pictures only. A torchvision that was built for another
    build of torch lacks its compiled operators and stops at those that it describes: then these are declared,
    and Transformers, which would use more, is told that there is none."""
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        own = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            own.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        KEPT.append(own)
        import importlib.util

        real = importlib.util.find_spec
        importlib.util.find_spec = lambda name, *more: None if name == "torchvision" else real(name, *more)
        import transformers.utils.import_utils as asked

        asked.is_torchvision_available()
        importlib.util.find_spec = real


KEPT: list[Any] = []
"""A library's operators are there as long as it is."""


def main() -> int:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    import torch
    from torch.optim.optimizer import register_optimizer_step_post_hook

    torch.set_num_threads(1)
    make_transforms_importable()
    marks: list[tuple[float, int]] = []
    trainable: list[int] = []

    def meter(optimizer: Any, *_: Any) -> None:
        marks.append((time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))
        if not trainable:
            sizes = [p.numel() for group in optimizer.param_groups for p in group["params"]]
            trainable.extend((sum(sizes), len(sizes) // 2))

    register_optimizer_step_post_hook(meter)
    sys.argv = [job["script"], *words(job)]
    runpy.run_path(job["script"], run_name="__main__")
    names = ("torch", "diffusers", "peft", "accelerate", "transformers")
    result = {
        "cpu_seconds": [mark[0] for mark in marks],
        "peak_bytes": [mark[1] * 1024 for mark in marks],
        "modules": trainable[1],
        "trainable": trainable[0],
        "settings": job.get("overrides", {}),
        "versions": {name: version(name) for name in names},
    }
    Path(job["result"]).write_text(json.dumps(result), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
