"""What goes into a file: an adapter of the untouched base, as values that PEFT and its kin understand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lora_scripts.adapters.attach import Adapter
from lora_scripts.adapters.spec import AdapterSpec

if TYPE_CHECKING:
    from torch import Tensor

PEFT_PREFIX = "base_model.model."
FUSED = ("gate_proj", "up_proj", "down_proj", "w1", "w2", "w3", "gate")
"""Names that PEFT 0.21 takes for parts of the fused experts wherever a base has such, be they a shared
expert's or a dense layer's."""


@dataclass(frozen=True)
class Plain:
    """A LoRA or DoRA of the base as it was loaded, whatever it was trained as.

    ``tensors``: stable name (``model.<path>.lora_A.weight``, ``<...>.lora_magnitude_vector``) -> float32
    values on the adapter's device. ``spec``: rank, alpha and kind as a client must read them, ``init`` always
    ``"default"``. ``modules``: names of adapted modules, ``experts``: of adapted parameters.
    """

    spec: AdapterSpec
    tensors: Mapping[str, Tensor]
    modules: tuple[str, ...]
    experts: tuple[str, ...]

    def peft_tensors(self) -> dict[str, Tensor]:
        """The tensors under the names of ``adapter_model.safetensors``."""
        return {PEFT_PREFIX + name.partition(".")[2]: tensor for name, tensor in self.tensors.items()}

    def peft_settings(self, among: Mapping[str, Sequence[int]]) -> dict[str, Any]:
        """The settings of PEFT's ``LoraConfig`` with which it finds these layers, and no others, again.

        ``among``: name -> shape of every weight of the base that could be adapted (``Description.modules`` of
        the component). Modules beside fused experts whose names PEFT would take for parts of these are named
        as parameters (``.weight``): the names of the tensors and what is computed stay the same.
        """
        parameters = list(self.experts)
        modules = list(self.modules)
        if not self.spec.dora and any(len(shape) == 3 for shape in among.values()):
            taken = [name for name in modules if name.rpartition(".")[2] in FUSED]
            modules = [name for name in modules if name not in set(taken)]
            parameters += [f"{name}.weight" for name in taken]
        return {
            "r": self.spec.rank,
            "lora_alpha": self.spec.alpha,
            "lora_dropout": 0.0 if parameters else self.spec.dropout,
            "use_rslora": self.spec.rslora,
            "use_dora": self.spec.dora,
            "target_modules": ends(modules, among),
            "target_parameters": sorted(parameters) or None,
        }


def ends(names: Iterable[str], among: Iterable[str]) -> list[str]:
    """The shortest list that means exactly ``names`` where names are compared from their ends: last parts
    where these are enough, else whole names."""
    wanted = set(names)
    leaves = {name.rpartition(".")[2] for name in wanted}
    meant = {name for name in among if name.rpartition(".")[2] in leaves}
    return sorted(leaves if meant == wanted else wanted)


def to_plain(adapter: Adapter) -> Plain:
    """The adapter for any client on the base as it was loaded. Nothing about the adapter changes.

    PiSSA trains ``W - s * B0 @ A0 + s * B @ A``, which is ``W`` with a LoRA of twice the rank: ``[B, -B0]``
    and ``[A; A0]`` (Meng et al. 2024, appendix C). Its alpha keeps the scale ``s``, with rsLoRA folded in.
    """
    import torch

    names = [name for found in adapter.matched.values() for name in found]
    spec = adapter.spec
    tensors = {name: parameter.detach() for name, parameter in adapter.parameters.items()}
    if spec.init == "pissa":
        for name, layer in adapter.layers.items():
            first, second = (f"{adapter.paths[name]}.lora_{half}.weight" for half in "AB")
            tensors[first] = torch.cat([tensors[first], layer.lora_start_A])
            tensors[second] = torch.cat([tensors[second], -layer.lora_start_B], dim=1)
        rank = 2 * spec.rank
        spec = replace(spec, rank=rank, alpha=spec.scale * rank, rslora=False, init="default")
    experts = {
        name
        for component, found in adapter.matched.items()
        for name in found
        if hasattr(adapter.layers[f"{component}.{name}"], "parameter_name")
    }
    return Plain(spec, tensors, tuple(n for n in names if n not in experts), tuple(sorted(experts)))
