"""Which programs load a text LoRA with its full effect, by its names and settings.

Settled by running or reading PEFT 0.21, vLLM 0.33 and llama.cpp's converter of the same time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lora_scripts.export.peft_layers import CONFIG, PREFIX
from lora_scripts.families._header import Header

from .clients import YES, Verdict

TEXT_CLIENTS = ("PEFT", "vLLM", "llama.cpp")
BLOCK = re.compile(
    r"(^|\.)(layers|h|blocks)\.\d+\.(self_attn|attn|attention|self_attention|mlp|feed_forward)"
)
NAMED = re.compile(r"\.lora_[AB]\.(?!weight$)[^.]+\.weight$")
"""An adapter's name between matrix and weight, as a live model has it and a file must not."""
PICTURES = (
    "unet.",
    "text_encoder",
    "transformer.transformer_blocks",
    "transformer.single",
    "transformer.layers",
    "transformer.noise_refiner",
    "transformer.context_refiner",
    "diffusion_model.",
)
VLLM_RANK = 16
"""The highest rank that vLLM takes without being told."""


def is_text_adapter(header: Header) -> bool:
    """Whether a LoRA's names are those of a language model's layers, as PEFT writes them."""
    names = [name for name in header.shapes if ".lora_A." in name]
    pictures = any(name.startswith(PICTURES) or "text_model." in name for name in names)
    return not pictures and any(BLOCK.search(name) for name in names)


def settings_beside(path: Path) -> dict[str, Any] | None:
    """``adapter_config.json`` beside the weights, None where there is none that can be read."""
    try:
        found = json.loads((path.parent / CONFIG).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def text_verdicts(header: Header, settings: Mapping[str, Any] | None) -> dict[str, Verdict]:
    """Client -> what it makes of the adapter; the gravest finding counts."""
    if settings is None:
        return dict.fromkeys(TEXT_CLIENTS, Verdict("no", "inspect.text.no_settings"))
    found = dict.fromkeys(TEXT_CLIENTS, YES)
    changes: list[tuple[str, Verdict]] = []
    rank = int(settings.get("r") or 0)
    if rank > VLLM_RANK:
        changes.append(("vLLM", Verdict("yes", "inspect.text.rank")))
    if settings.get("use_rslora") or settings.get("rank_pattern") or settings.get("alpha_pattern"):
        changes.append(("llama.cpp", Verdict("part", "inspect.text.scale")))
    if settings.get("target_parameters"):
        changes += [
            ("vLLM", Verdict("unknown")),
            ("llama.cpp", Verdict("no", "inspect.text.merge")),
        ]
    init = settings.get("init_lora_weights")
    if isinstance(init, str) and init.startswith(("pissa", "olora", "corda", "loftq")):
        changes += [(client, Verdict("part", "inspect.text.init")) for client in TEXT_CLIENTS]
    if (settings.get("bias") or "none") != "none":
        changes.append(("vLLM", Verdict("no", "inspect.text.refused")))
    if settings.get("use_dora") or settings.get("modules_to_save"):
        changes += [
            ("vLLM", Verdict("no", "inspect.text.merge")),
            ("llama.cpp", Verdict("no", "inspect.text.merge")),
        ]
    if any(".lora_" not in name and "modules_to_save" not in name for name in header.shapes):
        changes += [(client, Verdict("no", "inspect.text.head")) for client in ("vLLM", "llama.cpp")]
    if any(NAMED.search(name) for name in header.shapes):
        changes += [(client, Verdict("no", "inspect.text.names")) for client in TEXT_CLIENTS]
    elif not all(name.startswith(PREFIX) for name in header.shapes):
        changes.append(("PEFT", Verdict("no", "inspect.text.names")))
    return found | dict(changes)
