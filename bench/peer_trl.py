"""One measured run of TRL's SFTTrainer, in the peers' own environment: `python bench/peer_trl.py job.json`.

Nothing of lora-scripts is imported: this file runs where TRL is installed, and what the job does not set is
left at TRL's defaults (gradient checkpointing, mixed precision, padding, packing strategy).
"""

from __future__ import annotations

import json
import resource
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any


def conversations(path: Path) -> list[dict[str, Any]]:
    """The rows in TRL's prompt-completion form, whose default loss is on the completion only."""
    rows = [json.loads(line)["messages"] for line in path.read_text(encoding="utf-8").splitlines()]
    return [{"prompt": turns[:-1], "completion": turns[-1:]} for turns in rows]


def main() -> int:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from safetensors.torch import load_file
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    torch.set_num_threads(1)
    given = SFTConfig(
        output_dir=job["output"],
        per_device_train_batch_size=job["batch_size"],
        packing=job["packing"],
        max_length=job["max_length"],
        num_train_epochs=1,
        learning_rate=job["learning_rate"],
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=1.0,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        seed=job["seed"],
        train_sampling_strategy="sequential",
        use_cpu=True,
        **job.get("overrides", {}),
    )
    lora = LoraConfig(
        r=job["rank"], lora_alpha=job["alpha"], target_modules="all-linear", task_type="CAUSAL_LM"
    )
    marks: list[tuple[float, int, int]] = []

    class Meter(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            marks.append((time.process_time(), state.num_input_tokens_seen, peak))

    trainer = SFTTrainer(
        model=job["base"],
        args=given,
        train_dataset=Dataset.from_list(conversations(Path(job["rows"]))),
        peft_config=lora,
        callbacks=[Meter()],
    )
    if job.get("start"):
        begin(trainer.model, load_file(job["start"]))
    lengths = real_tokens(trainer)
    trainer.train()
    trainer.save_model(job["output"])
    used = {
        name: getattr(trainer.args, name) for name in ("bf16", "fp16", "gradient_checkpointing", "packing")
    }
    used |= {name: getattr(trainer.args, name) for name in ("packing_strategy", "padding_free", "loss_type")}
    result = {
        "cpu_seconds": [mark[0] for mark in marks],
        "peak_bytes": [mark[2] * 1024 for mark in marks],
        "tokens": lengths[: len(marks)],
        "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
        "settings": used | {"dtype": str(next(trainer.model.parameters()).dtype)},
        "trainable": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        "versions": {name: version(name) for name in ("trl", "transformers", "peft", "accelerate", "torch")},
    }
    Path(job["result"]).write_text(json.dumps(result), encoding="utf-8")
    return 0


def begin(model: Any, tensors: dict[str, Any]) -> None:
    """Gives the adapter the initial weights of the other arm, so that both start at the same point."""
    import torch

    own = {
        name.replace(".default.", "."): value for name, value in model.named_parameters() if "lora_" in name
    }
    if set(own) != set(tensors):
        raise SystemExit(f"adapters differ: {sorted(set(own) ^ set(tensors))[:4]}")
    with torch.no_grad():
        for name, value in tensors.items():
            own[name].copy_(value)


def real_tokens(trainer: Any) -> list[int]:
    """Tokens of each step's rows, padding not counted, in the order in which the loader gives them."""
    found = []
    for batch in trainer.get_train_dataloader():
        if "attention_mask" in batch:
            found.append(int(batch["attention_mask"].sum()))
        else:
            found.append(batch["input_ids"].numel())
    return found


if __name__ == "__main__":
    sys.exit(main())
