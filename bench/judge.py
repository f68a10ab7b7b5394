"""The loss of finished adapters by one and the same judge: `python -m bench.judge job.json`.

Transformers and PEFT in fp32, one row at a time, over answer tokens up to the end of the turn: neither arm's
own way of counting decides.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def main() -> int:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    import torch
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(job["base"])
    base = AutoModelForCausalLM.from_pretrained(job["base"], dtype=torch.float32)
    lora = LoraConfig(r=job["rank"], lora_alpha=job["alpha"], target_modules="all-linear")
    model = get_peft_model(base, lora)
    own = {
        name.replace(".default.", "."): value for name, value in model.named_parameters() if "lora_" in name
    }
    result: dict[str, dict[str, float]] = {}
    for arm, path in {"bare base": None, **job["adapters"]}.items():
        with torch.no_grad():
            for name, value in (load_file(path) if path else {}).items():
                own[name].copy_(value)
            result[arm] = {part: loss(model, tokenizer, Path(rows)) for part, rows in job["parts"].items()}
    Path(job["result"]).write_text(json.dumps(result), encoding="utf-8")
    return 0


def loss(model: Any, tokenizer: Any, rows: Path) -> float:
    """Mean negative log-likelihood of an answer token, in nats."""
    import torch
    from torch.nn.functional import cross_entropy

    total, count = 0.0, 0
    for line in rows.read_text(encoding="utf-8").splitlines():
        turns = json.loads(line)["messages"]
        before = tokenizer.apply_chat_template(turns[:-1], add_generation_prompt=True, tokenize=False)
        after = turns[-1]["content"] + tokenizer.eos_token
        prompt = tokenizer(before, add_special_tokens=False)["input_ids"]
        ids = torch.tensor([tokenizer(before + after, add_special_tokens=False)["input_ids"]])
        logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
        total += float(cross_entropy(logits, ids[0, len(prompt) :], reduction="sum"))
        count += len(logits)
    return total / count


if __name__ == "__main__":
    sys.exit(main())
