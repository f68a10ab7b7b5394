"""Adapters put into their base for good: a Transformers folder, proven by loading it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_scripts.core.files import sync_folder, write_atomic
from lora_scripts.core.problems import Location, Problem, ProblemsError
from lora_scripts.export.merged_weights import (
    FileWeights,
    MergedWeights,
    ModuleWeights,
    Worn,
    transposed_experts,
)
from lora_scripts.export.peft_folder import TOKENIZER_CONFIG, write_tokenizer
from lora_scripts.export.peft_layers import read_peft
from lora_scripts.export.text_proof import (
    ALLOWED,
    Difference,
    bounded,
    compare,
    encode,
    next_token_logits,
    same_effects,
    worn,
)
from lora_scripts.families._source import Source, find, resolve

if TYPE_CHECKING:
    import torch

    from lora_scripts.families._base import TextModel

SHARD = "5GB"
DTYPES = ("float32", "bfloat16", "float16")
OF_GGUF = "float16"
"""What the weights of a GGUF base are written as, unless asked otherwise: GGUF's own half precision."""


@dataclass(frozen=True)
class Parts:
    """What a merge starts from. ``own``: the precision of the base; ``dtype``: the one to write."""

    source: Source
    family: Any
    worn: tuple[Worn, ...]
    own: torch.dtype
    dtype: torch.dtype

    @property
    def coarser(self) -> torch.dtype:
        """The one of the two that rounds more: what a comparison may ask for."""
        return max((self.own, self.dtype), key=lambda kind: (kind.itemsize < 4, kind == self.dtype))


@dataclass(frozen=True)
class Merged:
    """``folder`` holds ``layers`` changed weights. ``dequantised``: the base was a GGUF file. ``difference``:
    of the next-token logits of the base wearing the adapters and of the folder, read again; None where no
    proof was asked for. ``weights``: of what the adapters change in a weight, PEFT's way and ours."""

    folder: Path
    layers: int
    dtype: str
    dequantised: bool
    difference: Difference | None
    weights: float = 0.0


def parse_worn(text: str) -> Worn:
    """``FOLDER`` or ``FOLDER:0.5``; a Windows drive's colon is no strength.

    Raises ProblemsError LS4300 to LS4302, LS4309 for a strength of a DoRA.
    """
    head, colon, tail = text.rpartition(":")
    path, strength = Path(text).expanduser(), 1.0
    if colon and not path.exists():
        with suppress(ValueError):
            path, strength = Path(head).expanduser(), float(tail)
    adapter = read_peft(path)
    if not abs(strength) < float("inf") or (adapter.dora and strength != 1.0):
        raise ProblemsError(Problem("LS4309", {"lora": text}, Location(str(path))))
    return Worn(adapter, strength)


def _dtype_of(source: Source) -> str:
    text = source.config.get("text_config") or {}
    told = source.config.get("dtype") or source.config.get("torch_dtype") or text.get("dtype")
    return str(told) if told in DTYPES else "float32"


def open_parts(base: str | None, loras: Sequence[str], dtype: str | None = None) -> Parts:
    """Reads adapters and finds their base: ``base``, else what the first adapter says it is.

    Raises ProblemsError: LS4300 to LS4302 and LS4309 of adapters, LS4307 a base in fewer bits, LS4317 no
    base, LS4318 no language model, and those of ``families._source.resolve``.
    """
    import torch

    adapters = tuple(parse_worn(text) for text in loras)
    first = adapters[0].adapter
    named = base or first.base
    if not named:
        raise ProblemsError(Problem("LS4317", {"missing": "--base", "path": str(first.path)}))
    source = resolve(named)
    family = find("auto", source)
    where = Location(str(source.path))
    if family.sheet.task != "text-generation":
        params = {"path": str(source.path), "title": family.sheet.named()}
        raise ProblemsError(Problem("LS4318", params, where))
    if method := (source.config.get("quantization_config") or {}).get("quant_method"):
        raise ProblemsError(Problem("LS4307", {"path": str(source.path), "method": str(method)}, where))
    own = _dtype_of(source)
    written = dtype or (OF_GGUF if source.kind == "gguf" else own)
    return Parts(source, family, adapters, getattr(torch, own), getattr(torch, written))


def tokenizer_of(parts: Parts) -> Any:
    """The tokenizer, and with it the chat template, that the first adapter was trained with."""
    folder = parts.worn[0].adapter.path
    if (folder / TOKENIZER_CONFIG).is_file():
        return parts.family.tokenizer(Source(str(folder), "transformers", folder, {}, {}, {}))
    return parts.family.tokenizer(parts.source)


def load_base(parts: Parts) -> TextModel:
    """The bare base as precisely as it comes, on the processor, where there is the most memory."""
    model: TextModel = parts.family.load(parts.source, dtype=parts.own, packing=False)
    return model


@dataclass(frozen=True)
class Worth:
    """What a file has to reach: (P, V) logits of the ``bare`` base and of the base that wears every adapter
    through PEFT's own loader. ``weights``: how far its changes of weights are from the plan's."""

    bare: Any
    wanted: Any
    weights: float


def adapter_worth(
    parts: Parts, model: TextModel, ids: Sequence[Sequence[int]], plan: MergedWeights, output: Path
) -> Worth:
    """ProblemsError LS4320 where ``plan``, which is to become ``output``, changes other than PEFT does."""
    module = model.predictor
    bare = next_token_logits(module, ids)
    with worn(module, [(w.adapter.path, w.strength) for w in parts.worn]) as wearing:
        weights = same_effects(wearing, plan.effect, ALLOWED["float32"], output)
        return Worth(bare, next_token_logits(wearing, ids), weights)


def by_files(parts: Parts) -> MergedWeights | None:
    """The merge from the base's files alone, None where their names or shapes are not the loaded model's
    (fused experts, GGUF, an older layout)."""
    if parts.source.kind != "transformers":
        return None
    tied = bool(parts.source.config.get("tie_word_embeddings"))
    found = MergedWeights(FileWeights(parts.source), parts.worn, tied)
    return None if found.missing else found


def by_module(parts: Parts, model: TextModel) -> MergedWeights:
    """The merge from the loaded model. ProblemsError LS4306 where an adapter is for another base."""
    module: Any = model.predictor
    tied = bool(getattr(module.config, "tie_word_embeddings", False))
    found = MergedWeights(ModuleWeights(module), parts.worn, tied, transposed_experts(module))
    found.check(parts.source.name)
    return found


def merge(
    base: str | None,
    loras: Sequence[str],
    output: Path,
    *,
    dtype: str | None = None,
    proven: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Merged:
    """Writes ``output``, a whole model in the base's precision (or ``dtype``), and proves it. Without
    ``proven`` a base whose files are named as its layers is never loaded: memory holds one file at a time.

    ``progress(done, total)`` counts files of weights. The folder appears whole or not at all. Raises
    ProblemsError as ``open_parts``, LS4305 where the folder does something else than the adapters,
    LS4306 where one is for another base, LS4308 where ``output`` exists.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ProblemsError(Problem("LS4308", {"path": str(output)}, Location(str(output))))
    parts = open_parts(base, loras, dtype)
    tokenizer = tokenizer_of(parts)
    files = by_files(parts)
    model = load_base(parts) if proven or files is None else None
    plan = files if files is not None or model is None else by_module(parts, model)
    assert plan is not None
    ids = encode(tokenizer)
    worth = adapter_worth(parts, model, ids, plan, output) if proven and model is not None else None
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.parent / f".tmp-{os.getpid()}-{output.name}"
    try:
        temporary.mkdir()
        write_tokenizer(temporary, tokenizer)
        if isinstance(plan.weights, FileWeights):
            del model
            _write_files(temporary, parts, plan, progress)
        else:
            assert model is not None
            _write_module(temporary, parts, model, plan)
            del model
        difference = _proven(temporary, parts, ids, worth) if worth else None
        if output.is_dir():
            output.rmdir()
        temporary.rename(output)
        sync_folder(output.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    kind = str(parts.dtype).removeprefix("torch.")
    weights = worth.weights if worth else 0.0
    return Merged(output, len(plan.plan), kind, parts.source.kind == "gguf", difference, weights)


def _proven(folder: Path, parts: Parts, ids: Any, worth: Worth) -> Difference:
    source = resolve(str(folder))
    family: Any = find("auto", source)
    again = family.load(source, dtype=parts.dtype, packing=False)
    got = next_token_logits(again.predictor, ids)
    allowed = ALLOWED[str(parts.coarser).removeprefix("torch.")]
    return bounded(compare(worth.wanted, got, worth.bare, parts.coarser), allowed, folder)


def _write_files(
    folder: Path, parts: Parts, plan: MergedWeights, progress: Callable[[int, int], None] | None
) -> None:
    """File by file as the base is split, so that one file's weights are in memory at a time."""
    from lora_scripts.export.tensors_file import write_safetensors

    assert isinstance(plan.weights, FileWeights)
    files = sorted({path for path in plan.weights.files.values()})
    table: dict[str, str] = {}
    size = 0
    for number, path in enumerate(files):
        names = [name for name, owner in plan.weights.files.items() if owner == path]
        if path == files[-1]:
            names += [name for name in plan.names if name not in plan.weights.files]
        tensors = {name: _cast(plan.get(name), parts.dtype) for name in names}
        write_safetensors(folder / path.name, tensors, {"format": "pt"})
        table |= dict.fromkeys(names, path.name)
        size += sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        if progress:
            progress(number + 1, len(files))
    if len(files) > 1:
        index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(table.items()))}
        write_atomic(folder / "model.safetensors.index.json", json.dumps(index, indent=2) + "\n")
    config = {k: v for k, v in parts.source.config.items() if k not in ("torch_dtype", "auto_map")}
    config["dtype"] = str(parts.dtype).removeprefix("torch.")
    if plan.untied:
        config["tie_word_embeddings"] = False
    write_atomic(folder / "config.json", json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    generation = parts.source.path / "generation_config.json"
    if generation.is_file():
        write_atomic(folder / generation.name, generation.read_bytes())


def _cast(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _write_module(folder: Path, parts: Parts, model: TextModel, plan: MergedWeights) -> None:
    """Through the library's own writer, which knows how its classes' weights lie in files."""
    import torch

    module: Any = model.predictor
    with torch.no_grad():
        for name in plan.plan:
            value = plan.get(name).to(parts.own)
            if plan.untied and name.startswith("lm_head"):
                module.config.tie_word_embeddings = False
                module.lm_head.weight = torch.nn.Parameter(value, requires_grad=False)
            else:
                module.get_parameter(name).copy_(value)
    module.to(parts.dtype)
    module.config.dtype = parts.dtype
    module.config.use_cache = True
    given = parts.source.config.get("model_type")
    if given and given != module.config.model_type:
        _write_as_it_is(folder, module)
    else:
        module.save_pretrained(str(folder), max_shard_size=SHARD)


def _write_as_it_is(folder: Path, module: Any) -> None:
    """In the layout of the class that it was loaded as, which every program knows, not of the files that it
    came from."""
    from lora_scripts.export.tensors_file import write_safetensors

    module.config.architectures = [type(module).__name__]
    module.config.save_pretrained(str(folder))
    if module.generation_config is not None:
        module.generation_config.save_pretrained(str(folder))
    weights = ModuleWeights(module)
    write_safetensors(folder / "model.safetensors", weights.tensors, {"format": "pt"})
