"""Proof that a written text LoRA does what was trained: next-token logits, compared and bounded."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_scripts.adapters.attach import Adapter
from lora_scripts.core.problems import Location, Problem, ProblemsError
from lora_scripts.families._base import TextModel

from .peft_folder import peft_tensors
from .readback import precision

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

NAME = "readback"
ALLOWED = {"float32": 1e-2, "bfloat16": 6e-2, "float16": 6e-2}
"""By dtype: the largest relative difference of logits. A wrong scale, a lost layer or swapped rows make
differences of the order of one."""
FLOOR = 1e-3
"""Share of the logits below which an adapter's effect counts as this much: rounding alone reaches 1e-6."""
TRACE = 1e-5
"""Share of a weight below which a change counts as this much: what float32 rounds off a sum of the two."""
PROMPTS = (
    "What can I do when the kettle that I bought leaks?",
    "请用一句话介绍一下你自己。",
    "def mean(numbers):",
    "Once upon a time, 1234 ships left the harbour:",
)
LONGEST = 256
"""Tokens of a prompt that are looked at; the comparison shall cost little."""


@dataclass(frozen=True)
class Difference:
    """``largest``: largest absolute difference of logits; ``relative``: their distance over the adapter's
    own effect (over the logits in half precision); ``agreed``: share of prompts with the same likeliest
    next token."""

    largest: float
    relative: float
    agreed: float


@dataclass(frozen=True)
class TextProof:
    """``layers``: weights that the client's own loader adapted."""

    layers: int
    difference: Difference


def encode(tokenizer: Any, prompts: Sequence[str] = PROMPTS) -> list[list[int]]:
    """Token ids of ``prompts``, through the chat template where there is one."""
    found = []
    for prompt in prompts:
        if getattr(tokenizer, "chat_template", None):
            turns = [{"role": "user", "content": prompt}]
            text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        else:
            ids = tokenizer(prompt)["input_ids"]
        found.append([int(number) for number in ids][:LONGEST])
    return [ids for ids in found if ids]


def next_token_logits(module: nn.Module, prompts: Sequence[Sequence[int]]) -> Tensor:
    """(P, V) float32 on the CPU: what ``module`` expects after each prompt, one prompt at a time."""
    import torch

    device = next(module.parameters()).device
    rows, training = [], module.training
    module.eval()
    try:
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            for ids in prompts:
                inputs = torch.tensor([list(ids)], dtype=torch.long, device=device)
                rows.append(module(input_ids=inputs, use_cache=False, logits_to_keep=1).logits[0, -1])
    finally:
        module.train(training)
    return torch.stack([row.float().cpu() for row in rows])


def compare(wanted: Tensor, got: Tensor, base: Tensor, dtype: torch.dtype) -> Difference:
    """How far ``got`` is from ``wanted``, both (P, V); ``base``: the logits without any adapter."""
    import torch

    wanted, got, base = wanted.double(), got.double(), base.double()
    width = min(wanted.shape[1], got.shape[1])
    wanted, got, base = wanted[:, :width], got[:, :width], base[:, :width]
    distance, size = float((wanted - got).norm()), float(wanted.norm())
    reach = float((wanted - base).norm()) + FLOOR * size if dtype == torch.float32 else size
    agreed = float((wanted.argmax(1) == got.argmax(1)).double().mean())
    return Difference(float((wanted - got).abs().max()), distance / reach if reach else distance, agreed)


def bounded(difference: Difference, allowed: float, path: Path) -> Difference:
    """``difference`` itself; ProblemsError LS4305 where it is more than ``allowed``."""
    if not difference.relative <= allowed:
        params = {"path": str(path), "difference": f"{difference.relative:.3g}", "allowed": f"{allowed:g}"}
        raise ProblemsError(Problem("LS4305", params, Location(str(path))))
    return difference


def same_effects(wearing: Any, effect: Callable[[str], Tensor | None], allowed: float, path: Path) -> float:
    """The largest distance between what PEFT changes in a weight and ``effect`` of its name (None: nothing),
    over the former's size. ProblemsError LS4320 where it is more than ``allowed``.

    Logits in half precision cannot tell a weak adapter from none; this can, whatever the base's precision.
    Left to the logits are DoRA and fused experts, whose changes PEFT does not give by themselves.
    """
    import torch
    from peft.tuners.lora import LoraLayer

    worst = 0.0
    for name, layer in wearing.base_model.model.named_modules():
        if not isinstance(layer, LoraLayer) or hasattr(layer, "parameter_name"):
            continue
        own: Any = layer
        taken = [adapter for adapter in own.active_adapters if adapter in own.lora_A]
        if not taken or any(own.use_dora.get(adapter) for adapter in taken):
            continue
        wanted = torch.stack([own.get_delta_weight(n).detach().float().cpu() for n in taken]).sum(0)
        size = float(wanted.norm()) + TRACE * float(own.get_base_layer().weight.detach().float().norm())
        got = effect(f"{name}.weight")
        distance = float((wanted - (0 if got is None else got.cpu())).norm())
        share = distance / size if size else distance
        if not share <= allowed:
            params = {
                "path": str(path), "layer": name, "difference": f"{share:.3g}", "allowed": f"{allowed:g}"
            }  # fmt: skip
            raise ProblemsError(Problem("LS4320", params, Location(str(path))))
        worst = max(worst, share)
    return worst


@contextmanager
def bare(module: nn.Module) -> Iterator[None]:
    """Within it, the model has no adapters: each adapted layer is replaced by the layer inside it, so that
    nothing is copied, whatever the base is stored as."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    outer: dict[str, Any] = {}
    for name, child in module.named_modules():
        inside = any(name.startswith(f"{taken}.") for taken in outer)
        if isinstance(child, BaseTunerLayer) and not inside:
            outer[name] = child
    config = module.__dict__.pop("peft_config", None)
    base: Any = module
    embeddings = base.get_input_embeddings()
    hooks = dict(getattr(embeddings, "_forward_hooks", {}))
    try:
        for name, layer in outer.items():
            module.set_submodule(name, layer.get_base_layer())
        yield
    finally:
        for name, layer in outer.items():
            module.set_submodule(name, layer)
        if config is not None:
            module.peft_config = config
        embeddings._forward_hooks.clear()  # PEFT adds one where gradients are checkpointed
        embeddings._forward_hooks.update(hooks)


@contextmanager
def worn(module: nn.Module, folders: Sequence[tuple[Path, float]]) -> Iterator[Any]:
    """Within it, the bare ``module`` wears adapters, loaded by PEFT's own loader, each at its strength;
    yields PEFT's model."""
    import torch
    from peft import PeftModel

    device = str(next(module.parameters()).device)
    names = [f"{NAME}{number}" for number in range(len(folders))]
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.filterwarnings("ignore", message=".*(peft_config|meta device|adapter keys|tie_word).*")
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks Transformers by an older name
        first = str(folders[0][0])
        model: Any = PeftModel.from_pretrained(module, first, adapter_name=names[0], torch_device=device)
        for name, (folder, _) in zip(names[1:], folders[1:], strict=True):
            model.load_adapter(str(folder), adapter_name=name, torch_device=device)
    try:
        model.base_model.set_adapter(names)
        for layer in model.modules():
            scales = getattr(layer, "scaling", None)
            for name, (_, strength) in zip(names, folders, strict=True):
                if isinstance(scales, dict) and name in scales:  # attention has a number of that name
                    scales[name] *= strength
        model.requires_grad_(False)
        yield model
    finally:
        model.unload()
        module.__dict__.pop("peft_config", None)


def _loaded(peft_model: Any, wanted: dict[str, Tensor]) -> int:
    """How many adapted weights PEFT filled with the trained numbers."""
    import torch
    from peft import get_peft_model_state_dict

    found = get_peft_model_state_dict(peft_model, adapter_name=f"{NAME}0", save_embedding_layers=False)
    equal = {
        name for name, t in found.items() if name in wanted and torch.equal(t.float().cpu(), wanted[name])
    }
    return sum(name.endswith(".lora_A.weight") for name in equal) if equal >= wanted.keys() else 0


def read_back_peft(
    folder: Path, model: TextModel, adapter: Adapter, prompts: Sequence[Sequence[int]] | None = None
) -> TextProof:
    """Loads ``folder`` with PEFT's own loader onto the bare base and compares next-token logits after
    ``prompts`` (token ids; default: fixed ones) with the trained model's. ``model`` is as before afterwards.

    The base is neither copied nor loaded again: its adapted layers are exchanged for their insides.
    Raises ProblemsError: LS4304 PEFT did not take every layer, LS4305 another effect.
    """
    ids = [list(row)[:LONGEST] for row in prompts] if prompts else encode(model.tokenizer)
    module = model.predictor
    trained = next_token_logits(module, ids)
    wanted = peft_tensors(adapter)
    expected = sum(name.endswith(".lora_A.weight") for name in wanted)
    with bare(module):
        base = next_token_logits(module, ids)
        with worn(module, [(folder, 1.0)]) as read:
            layers = _loaded(read, wanted)
            logits = next_token_logits(read, ids)
    if layers != expected or not layers:
        params = {"path": str(folder), "found": layers, "expected": expected}
        raise ProblemsError(Problem("LS4304", params, Location(str(folder))))
    kind = precision(model)
    difference = compare(trained, logits, base, kind)
    return TextProof(layers, bounded(difference, ALLOWED[str(kind).removeprefix("torch.")], folder))
