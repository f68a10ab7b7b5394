"""A text LoRA as the folder that PEFT, vLLM and llama.cpp's converter take as it is."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_scripts.adapters.attach import Adapter
from lora_scripts.adapters.plain import to_plain
from lora_scripts.core.files import write_atomic
from lora_scripts.core.problems import Location, Problem, ProblemsError
from lora_scripts.families._base import TextModel

from .metadata import own_metadata
from .peft_layers import CONFIG, WEIGHTS
from .tensors_file import write_safetensors
from .text_card import card_text
from .text_facts import TextFacts

if TYPE_CHECKING:
    from torch import Tensor

CARD = "README.md"
TEMPLATE = "chat_template.jinja"
TOKENIZER_CONFIG = "tokenizer_config.json"
PLACES = ("name_or_path", "is_local", "local_files_only", "tokenizer_file", "_commit_hash", "cache_dir")
"""Keys of a saved tokenizer that say where it came from on this machine."""


@dataclass(frozen=True)
class PeftExport:
    """``layers``: adapted weights. ``files``: names of what was written, the weights first."""

    folder: Path
    layers: int
    files: tuple[str, ...]


def peft_tensors(adapter: Adapter) -> dict[str, Tensor]:
    """PEFT's own name -> float32 tensor on the CPU, as its ``save_pretrained`` gives them.

    Raises ProblemsError LS4303 where not all numbers are finite.
    """
    import torch

    found: dict[str, Tensor] = {}
    broken: list[str] = []
    for name, value in to_plain(adapter).peft_tensors().items():
        tensor = value.detach().to("cpu", torch.float32).clone()
        if not bool(torch.isfinite(tensor).all()):
            broken.append(name)
        found[name] = tensor
    if broken:
        raise ProblemsError(Problem("LS4303", {"layers": ", ".join(broken[:3])}))
    return found


def base_name(model: TextModel) -> str:
    """What an adapter calls its base: the hub id or path as it was given; a builtin one lies in a folder."""
    source = model.description.source
    return str(source.path) if source.builtin else source.given


def peft_config(model: TextModel, adapter: Adapter) -> dict[str, Any]:
    """The whole ``adapter_config.json``."""
    from peft import LoraConfig

    among = model.description.modules[model.family.sheet.predictor]
    config = LoraConfig(
        **to_plain(adapter).peft_settings(among),
        task_type="CAUSAL_LM",
        base_model_name_or_path=base_name(model),
        inference_mode=True,
    ).to_dict()
    return {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}


def _json(value: Any) -> str:
    def plain(item: Any) -> Any:
        return getattr(item, "value", None) or str(item)

    return json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True, default=plain) + "\n"


def write_tokenizer(folder: Path, tokenizer: Any) -> list[str]:
    """The tokenizer's own files and its chat template, each whole or absent; names of what was written."""
    with tempfile.TemporaryDirectory() as temporary:
        tokenizer.save_pretrained(temporary)
        written = sorted(path for path in Path(temporary).iterdir() if path.is_file())
        for path in written:
            content = path.read_bytes()
            if path.name == TOKENIZER_CONFIG:
                kept = {k: v for k, v in json.loads(content).items() if k not in PLACES}
                content = _json(kept).encode()
            write_atomic(folder / path.name, content)
    return [path.name for path in written]


def write_peft(folder: Path, model: TextModel, adapter: Adapter, facts: TextFacts) -> PeftExport:
    """Writes the adapter, its configuration, the tokenizer with its chat template and the model card, each
    file atomically, the weights last; equal adapters and facts give equal bytes.

    Raises ProblemsError LS4303 where the adapter holds numbers that are not finite.
    """
    try:
        tensors = peft_tensors(adapter)
    except ProblemsError as error:
        raise ProblemsError(
            Problem(p.code, p.params, Location(str(folder))) for p in error.problems
        ) from error
    files = write_tokenizer(folder, model.tokenizer)
    write_atomic(folder / CONFIG, _json(peft_config(model, adapter)))
    write_atomic(folder / CARD, card_text(model, adapter, facts))
    write_safetensors(folder / WEIGHTS, tensors, {"format": "pt", **own_metadata(model, facts)})
    return PeftExport(folder, len(adapter.layers), (WEIGHTS, CONFIG, CARD, *files))
