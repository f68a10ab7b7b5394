"""Text LoRAs for llama.cpp and Ollama: an adapter or a merged model as GGUF, and a Modelfile beside it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lora_scripts.core.catalogue import say
from lora_scripts.core.files import sync_folder, write_atomic
from lora_scripts.core.problems import Location, Problem, ProblemsError
from lora_scripts.export.gguf_adapter import read_gguf_adapter, refuse_what_gguf_cannot, write_gguf_adapter
from lora_scripts.export.gguf_file import Entry, read_entries
from lora_scripts.export.gguf_model import (
    check_gguf_model,
    fill_from_gguf,
    transformers_reads,
    write_gguf_model,
)
from lora_scripts.export.gguf_names import architecture, name_map
from lora_scripts.export.gguf_vocabulary import vocabulary
from lora_scripts.export.modelfile import ChatShape, chat_shape, modelfile, path_for
from lora_scripts.export.text_proof import (
    NAME,
    Difference,
    bounded,
    compare,
    encode,
    next_token_logits,
    same_effects,
    worn,
)
from lora_scripts.families._components import quiet_libraries

from .merge import Parts, adapter_worth, by_files, by_module, load_base, open_parts, tokenizer_of

MODELFILE = "Modelfile"
MARK = "# lora-scripts"
ALLOWED = {"f32": 1e-2, "f16": 6e-2, "bf16": 6e-2, "q8_0": 1e-1}
"""Largest relative difference of logits by what the numbers were rounded to; see ``export.text_proof``."""


@dataclass(frozen=True)
class GgufExport:
    """``count``: adapted layers, or tensors of a merged model. ``numbers``: largest relative distance of a
    tensor read back, of a merged model. ``template``: whether the Modelfile has a chat template of its own.
    ``difference``: of next-token logits between the base wearing the adapter and the file. ``weights``: of
    what the adapter changes in a weight, PEFT's way and the file's (before rounding, of a merged model)."""

    path: Path
    merged: bool
    count: int
    modelfile: Path
    template: bool
    difference: Difference
    numbers: float = 0.0
    weights: float = 0.0


def export_gguf(
    base: str | None,
    loras: Sequence[str],
    output: Path,
    *,
    merged: bool = False,
    outtype: str | None = None,
) -> GgufExport:
    """Writes ``output`` and a Modelfile beside it, and proves the file by reading it.

    ``outtype`` defaults to ``f32`` for an adapter, which is small, and to ``f16`` for a model. Raises
    ProblemsError as ``merge.open_parts``, LS4305, LS4306, LS4308 and LS4310 to LS4319.
    """
    if output.exists():
        raise ProblemsError(Problem("LS4308", {"path": str(output)}, Location(str(output))))
    if not merged and len(loras) > 1:
        raise ProblemsError(Problem("LS4319", {"option": "--to gguf", "count": len(loras)}))
    parts = open_parts(base, loras)
    config = parts.family.config(parts.source).get_text_config().to_dict()
    architecture(str(config["model_type"]), whole=merged)
    if not merged:
        refuse_what_gguf_cannot(parts.worn[0].adapter)
    tokenizer = tokenizer_of(parts)
    made = _model if merged else _adapter
    unproven = output.with_name(f".tmp-{os.getpid()}-{output.stem}.gguf")
    try:
        done = made(parts, config, tokenizer, unproven, output, outtype)
        os.replace(unproven, output)
    finally:
        unproven.unlink(missing_ok=True)
    sync_folder(output.parent)
    shape = chat_shape(tokenizer, done.ends)
    file = _write_modelfile(output, parts, shape, merged)
    template = shape.template is not None
    return GgufExport(output, merged, done.parts, file, template, done.difference, done.numbers, done.weights)


def _ends(module: Any) -> list[int]:
    """Token ids at which the model stops, as its own generation settings say."""
    told = getattr(getattr(module, "generation_config", None), "eos_token_id", None)
    return [told] if isinstance(told, int) else list(told or [])


class Made(NamedTuple):
    parts: int
    numbers: float
    weights: float
    difference: Difference
    ends: list[int]


def _adapter(
    parts: Parts, config: Mapping[str, Any], tokenizer: Any, file: Path, output: Path, outtype: str | None
) -> Made:
    """Writes the adapter to ``file``, which is to become ``output``, and compares what it does."""
    import torch

    kind = outtype or "f32"
    one = parts.worn[0]
    count = write_gguf_adapter(
        file, one.adapter, config, name=output.stem, outtype=kind, strength=one.strength
    )
    model = load_base(parts)
    module, ids = model.predictor, encode(tokenizer)
    bare = next_token_logits(module, ids)
    read = read_gguf_adapter(file, config)
    named = name_map(architecture(str(config["model_type"])), int(config["num_hidden_layers"]))
    with worn(module, [(one.adapter.path, one.strength)]) as wearing, torch.no_grad():
        wanted = next_token_logits(wearing, ids)

        def effect(weight: str) -> torch.Tensor | None:
            pair = read.get(str(named(weight)))
            return pair and pair[1] @ pair[0]

        weights = same_effects(wearing, effect, ALLOWED[kind], output)
        for name, layer in wearing.base_model.model.named_modules():
            if f"{NAME}0" in getattr(layer, "lora_A", {}):
                first, second = read[str(named(f"{name}.weight"))]
                layer.lora_A[f"{NAME}0"].weight.copy_(first)
                layer.lora_B[f"{NAME}0"].weight.copy_(second)
                layer.scaling[f"{NAME}0"] = 1.0
        got = next_token_logits(wearing, ids)
    difference = _judged(wanted, got, bare, parts, kind, output)
    return Made(count, 0.0, weights, difference, _ends(module))


def _by_transformers(file: Path, parts: Parts) -> Any:
    """The model in ``file`` through Transformers' own reader of GGUF."""
    from transformers import AutoModelForCausalLM

    quiet_libraries()
    return AutoModelForCausalLM.from_pretrained(
        str(file.parent), gguf_file=file.name, dtype=parts.own, local_files_only=True
    )


def _judged(wanted: Any, got: Any, bare: Any, parts: Parts, kind: str, output: Path) -> Difference:
    """How far the file is from the adapter, by the coarser of base and file. ProblemsError LS4305."""
    import torch

    coarse = kind != "f32" or parts.own != torch.float32
    allowed = ALLOWED[kind] if kind != "f32" else ALLOWED["f16" if coarse else "f32"]
    return bounded(compare(wanted, got, bare, torch.float16 if coarse else parts.own), allowed, output)


def _head(parts: Parts, config: Mapping[str, Any], tokenizer: Any) -> tuple[list[Entry], list[Entry]]:
    """(tokenizer's entries, entries of the base's own GGUF). A GGUF base's tokenizer is taken over as it is,
    but for the chat template, which the training may have changed."""
    if parts.source.kind != "gguf":
        folder = parts.source.path if parts.source.path.is_dir() else None
        return vocabulary(tokenizer, int(config["vocab_size"]), folder), []
    known = read_entries(parts.source.path)
    template = getattr(tokenizer, "chat_template", None)
    own = [Entry("tokenizer.chat_template", template, "STRING")] if isinstance(template, str) else []
    return own, known


def _model(
    parts: Parts, config: Mapping[str, Any], tokenizer: Any, file: Path, output: Path, outtype: str | None
) -> Made:
    """Writes the model to ``file``, which is to become ``output``, and compares numbers and what it does."""

    kind = outtype or "f16"
    words, known = _head(parts, config, tokenizer)
    model = load_base(parts)
    ids, ends = encode(tokenizer), _ends(model.predictor)
    weights = by_files(parts) or by_module(parts, model)
    worth = adapter_worth(parts, model, ids, weights, output)
    settings = {
        **config,
        "tie_word_embeddings": bool(config.get("tie_word_embeddings")) and not weights.untied,
    }
    count = write_gguf_model(file, weights, settings, words, name=output.stem, outtype=kind, known=known)
    numbers = check_gguf_model(file, weights, settings)
    del weights
    if transformers_reads(settings) and not parts.source.config.get("sliding_window"):
        del model
        module = _by_transformers(file, parts)
    else:
        module = model.predictor
        fill_from_gguf(file, module, settings)
    got = next_token_logits(module, ids)
    difference = _judged(worth.wanted, got, worth.bare, parts, kind, output)
    return Made(count, numbers, worth.weights, difference, ends)


def _system(parts: Parts) -> str | None:
    """The system prompt that the adapter was trained with, if it was told one."""
    try:
        told = json.loads(parts.worn[0].adapter.header.metadata.get("lora_scripts_config", "{}"))
    except ValueError:
        return None
    system = told.get("system") if isinstance(told, dict) else None
    return system if isinstance(system, str) else None


def _write_modelfile(output: Path, parts: Parts, shape: ChatShape, merged: bool) -> Path:
    """Beside ``output``; one that a person wrote is left alone."""
    folder = output.parent
    lines = [f"{MARK}: ollama create {output.stem} -f {MODELFILE}"]
    if not merged:
        lines.append(say("modelfile.base"))
    if shape.template is None:
        lines.append(say("modelfile.no_template"))
    text = modelfile(
        base=path_for(output if merged else parts.source.path, folder),
        adapter=None if merged else path_for(output, folder),
        shape=shape,
        system=_system(parts),
        note="\n".join(line.removeprefix("# ") for line in lines),
    )
    path = folder / MODELFILE
    if path.exists() and not path.read_text("utf-8", errors="replace").startswith(MARK):
        path = output.with_suffix(f".{MODELFILE}")
    write_atomic(path, text)
    return path
