"""Bases in four or eight bits: bitsandbytes packs the linear layers while they load, through Diffusers' and
Transformers' own quantisers. Convolutions, norms and words stay in the precision that was asked for.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from . import _components as parts
from ._base import Component

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


def settings(library: Literal["diffusers", "transformers"], quantization: str, dtype: torch.dtype) -> Any:
    """``BitsAndBytesConfig`` of that library for ``4bit`` or ``8bit``: NF4 with doubly quantised scales
    (QLoRA, Dettmers et al. 2023), which computes in ``dtype``, or LLM.int8 (Dettmers et al. 2022)."""
    made = importlib.import_module(library).BitsAndBytesConfig
    if quantization == "4bit":
        return made(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    return made(load_in_8bit=True)


def keep_weights(module: nn.Module) -> None:
    """Stops bitsandbytes' 4-bit layers from repacking their weights at the first pass without gradients, with
    rounded scales and for inference only, as they do on processors with AVX512-BF16."""
    part: Any
    for part in module.modules():
        if hasattr(part, "support_avx512bf16_for_cpu"):
            part.support_avx512bf16_for_cpu = False


def load_folder(
    part: Component, folder: Path, quantization: str, *, device: torch.device, dtype: torch.dtype
) -> nn.Module:
    """The component in ``folder``. ProblemsError LS4012 where weights do not fit."""
    if part.library == "diffusers":
        module = parts.build(part, parts.config_in(folder))
        state = parts.fitting(part, folder, parts.state_in(folder), module)
        return fill(part, module, state, quantization, device=device, dtype=dtype)
    extra = {"variant": "fp16"} if parts.is_variant(folder) else {}
    return _through_transformers(part, str(folder), quantization, device, dtype, **extra)


def fill(
    part: Component,
    module: nn.Module,
    state: dict[str, Tensor],
    quantization: str,
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> nn.Module:
    """``module`` (parameters on the meta device) with the weights ``state``, each packed as it is put in."""
    if part.library == "transformers":
        config: Any = module.config
        return _through_transformers(part, None, quantization, device, dtype, config=config, state_dict=state)
    from collections import OrderedDict

    from diffusers.models.model_loading_utils import load_model_dict_into_meta
    from diffusers.quantizers import DiffusersAutoQuantizer

    given: Any = module
    # Diffusers' loader would ask for a card first; its quantiser and bitsandbytes need none.
    quantiser: Any = DiffusersAutoQuantizer.from_config(
        settings("diffusers", quantization, dtype), pre_quantized=False
    )
    precise = list(getattr(given, "_keep_in_fp32_modules", None) or ())
    place: Any = {"": str(device)}
    quantiser.preprocess_model(model=given, device_map=place, keep_in_fp32_modules=precise)
    load_model_dict_into_meta(
        given,
        OrderedDict(state),
        dtype=dtype,
        hf_quantizer=quantiser,
        keep_in_fp32_modules=precise,
        device_map=place,
    )
    quantiser.postprocess_model(given)
    given.hf_quantizer = quantiser
    keep_weights(given)
    return module


def _through_transformers(
    part: Component,
    path: str | None,
    quantization: str,
    device: torch.device,
    dtype: torch.dtype,
    **extra: Any,
) -> nn.Module:
    module: nn.Module = parts.component_class(part).from_pretrained(
        path,
        local_files_only=True,
        use_safetensors=True,
        dtype=dtype,
        device_map={"": str(device)},
        quantization_config=settings("transformers", quantization, dtype),
        **extra,
    )
    keep_weights(module)
    return module
