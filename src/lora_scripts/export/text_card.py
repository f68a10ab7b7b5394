"""The model card of a text LoRA: what it is, how to use it, how it was made, what it was measured at."""

from __future__ import annotations

import json
from typing import Any

from lora_scripts.adapters.attach import Adapter
from lora_scripts.adapters.plain import to_plain
from lora_scripts.core.catalogue import say
from lora_scripts.families._base import TextModel

from .text_facts import TextFacts

SETTINGS = (
    "learning_rate",
    "optimizer",
    "lr_scheduler",
    "batch_size",
    "gradient_accumulation_steps",
    "max_length",
    "loss_on",
    "quantization",
    "seed",
)
MEASURES = ("loss", "perplexity", "accuracy")


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def usage(model: TextModel, adapter: Adapter, facts: TextFacts) -> list[str]:
    """How each program takes the adapter; a family whose files have other names says so itself."""
    base = model.description.source.name
    own: Any = getattr(model.family, "how_to_use", None)
    if own is not None:
        lines: list[str] = own(base, facts.name, adapter.spec.rank)
        return lines
    return [
        say("text.card.talk"),
        "",
        "```",
        f"lora-scripts chat --base {base} --lora .",
        "```",
        "",
        "Transformers + PEFT:",
        "",
        "```python",
        "from peft import AutoPeftModelForCausalLM",
        "from transformers import AutoTokenizer",
        "",
        f'model = AutoPeftModelForCausalLM.from_pretrained("{facts.name}")',
        f'tokenizer = AutoTokenizer.from_pretrained("{facts.name}")',
        "```",
        "",
        *_serving(model, adapter, facts.name),
        "llama.cpp, Ollama:",
        "",
        "```",
        f"lora-scripts export --to gguf --lora . --output {facts.name}.gguf",
        f"llama-server -m BASE.gguf --lora {facts.name}.gguf",
        f"ollama create {facts.name} -f Modelfile",
        "```",
        "",
        say("text.card.merge"),
    ]


def _serving(model: TextModel, adapter: Adapter, name: str) -> list[str]:
    """How vLLM serves it: where the base is one that vLLM can load by its name."""
    source = model.description.source
    if source.builtin or source.kind != "transformers":
        return []
    rank = max(16, to_plain(adapter).spec.rank)
    options = f"--enable-lora --max-lora-rank {rank} --lora-modules {name}=./{name}"
    return ["vLLM:", "", "```", f"vllm serve {source.name} {options}", "```", ""]


def card_text(model: TextModel, adapter: Adapter, facts: TextFacts) -> str:
    """Markdown with the front matter that model hubs read, in the language in use."""
    described, sheet = model.description, model.family.sheet
    base = described.source.name
    lines = [
        "---",
        f"base_model: {json.dumps(base, ensure_ascii=False)}",
        "library_name: peft",
        "pipeline_tag: text-generation",
        "tags:",
        "- lora",
        f"- {described.model_type}",
        "---",
        "",
        f"# {facts.name}",
        "",
        say("text.card.what", title=sheet.named(), base=base),
        "",
        f"## {say('export.card.use')}",
        "",
        *usage(model, adapter, facts),
        "",
        f"## {say('export.card.made')}",
        "",
        "| | |",
        "|---|---|",
    ]
    rows = [
        (say("export.card.base"), base),
        (say("export.card.rank"), f"{adapter.spec.rank} / {adapter.spec.alpha:g}"),
        (say("export.card.layers"), str(len(adapter.layers))),
        (say("text.card.objective"), facts.objective),
        (say("text.card.rows"), str(facts.rows)),
        (say("text.card.tokens"), str(facts.tokens)),
        (say("export.card.steps"), f"{facts.step} / {facts.total_steps}"),
        (say("text.card.epochs"), f"{facts.epochs:g}"),
        *((f"`{key}`", str(facts.config[key])) for key in SETTINGS if facts.config.get(key) is not None),
    ]
    lines += [f"| {name} | {value} |" for name, value in rows]
    if facts.after:
        lines += ["", f"## {say('text.card.held_out')}", ""]
        lines += [f"| | {say('text.card.before')} | {say('text.card.after')} |", "|---|---|---|"]
        lines += [
            f"| {say(f'text.card.measure.{name}')} | {_figure(facts.before.get(name))} | "
            f"{_figure(facts.after.get(name))} |"
            for name in MEASURES
            if name in facts.after
        ]
    lines += ["", say("text.card.repeat"), ""]
    return "\n".join(lines)
