"""A language model's configuration, tokenizer and weights, through Transformers' own classes and never
through code that comes with a model."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lora_scripts.core.problems import Location, Problem, ProblemsError

from ._components import quiet_libraries
from ._gguf_bounds import check_bounds
from ._header import convert_command, pickles_in
from ._quantised import keep_weights, settings
from ._source import Source

if TYPE_CHECKING:
    import torch
    from torch import nn

REMOTE_ONLY = {
    "qwen": "Qwen2.5 or Qwen3",
    "baichuan": "Qwen2.5 or Qwen3",
    "internlm": "InternLM3 or Qwen3",
    "internlm2": "InternLM3 or Qwen3",
    "xverse": "Qwen3",
    "orion": "Qwen3",
    "telechat": "Qwen3",
    "yuan": "Qwen3",
    "aquila": "Qwen3",
}
"""model_type whose code is no part of Transformers -> what to use instead."""
NOT_WRITERS = re.compile(
    "bart|bert|bert-generation|big_bird|bigbird_pegasus|blenderbot|blenderbot-small|camembert|data2vec-text|"
    "electra|ernie|git|marian|mbart|megatron-bert|musicgen|musicgen_melody|mvp|pegasus|plbart|prophetnet|"
    "reformer|rembert|roberta|roberta-prelayernorm|roc_bert|roformer|trocr|whisper|xlm|xlm-roberta|"
    "xlm-roberta-xl|xmod"
)
"""Listed by Transformers with a causal head, but trained as encoders or halves of something else."""
NO_LIMIT = 2**20
"""Tokens of context for a model that states none: recurrent ones can go on for ever."""
_VOLATILE = ("transformers_version", "_name_or_path", "torch_dtype", "dtype", "use_cache", "auto_map")


def stop(code: str, source: Source, **params: object) -> ProblemsError:
    return ProblemsError(Problem(code, {"path": str(source.path), **params}, Location(str(source.path))))


def native_types() -> Mapping[str, str]:
    """model_type -> class, of the causal language models that Transformers has."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return MODEL_FOR_CAUSAL_LM_MAPPING_NAMES


def is_language_model(source: Source) -> bool:
    """Whether this is a language model's folder or file, be it one that can be trained or not. The ChatGLMs
    have a family of their own."""
    if source.kind == "gguf":
        return True
    return source.kind == "transformers" and source.config.get("model_type", "chatglm") != "chatglm"


def check(source: Source) -> None:
    """Raises ProblemsError: LS4100 remote code only, LS4101 no model that writes, LS4102 unknown type,
    LS4013 pickled weights only, LS4103 no weights, LS4104 quantised in a way that cannot be trained on."""
    if source.kind == "gguf":
        return
    kind = str(source.config.get("model_type", "?"))
    if kind in REMOTE_ONLY:
        raise stop("LS4100", source, kind=kind, instead=REMOTE_ONLY[kind])
    if NOT_WRITERS.fullmatch(kind):
        raise stop("LS4101", source, kind=kind)
    if kind not in native_types():
        from transformers import CONFIG_MAPPING

        raise stop("LS4101" if kind in CONFIG_MAPPING else "LS4102", source, kind=kind)
    if not source.headers:
        if pickles_in(source.path):
            raise stop("LS4013", source, component="model", command=convert_command(source.path))
        raise stop("LS4103", source)
    method = (source.config.get("quantization_config") or {}).get("quant_method", "")
    if method and method != "bitsandbytes":
        raise stop("LS4104", source, method=method)


@contextmanager
def _reading(source: Source) -> Iterator[None]:
    """What Transformers and the GGUF reader raise over a damaged file becomes LS4105."""
    from huggingface_hub.errors import StrictDataclassError

    try:
        yield
    except (OSError, ValueError, LookupError, RuntimeError, TypeError, StrictDataclassError) as error:
        reason = (str(error) or type(error).__name__).strip().splitlines()[0][:300]
        raise stop("LS4105", source, reason=reason) from error


def gguf_architecture(source: Source) -> str:
    """``general.architecture`` of a GGUF file, from its first kilobytes. ProblemsError LS4105, LS4106."""
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    with _reading(source):
        from gguf import GGUFReader

        check_bounds(source.path)
        fields = GGUFReader(str(source.path)).fields
        name = str(fields["general.architecture"].contents())
    if name not in GGUF_SUPPORTED_ARCHITECTURES:
        raise stop("LS4106", source, kind=name)
    return name


def read_config(source: Source) -> Any:
    """The configuration of the text model, a Transformers object. ProblemsError as ``check``."""
    check(source)
    quiet_libraries()
    from transformers import CONFIG_MAPPING, AutoConfig

    if source.kind == "gguf":
        gguf_architecture(source)
        with _reading(source):
            return AutoConfig.from_pretrained(
                str(source.path.parent), gguf_file=source.path.name, local_files_only=True
            )
    with _reading(source):
        # The class is chosen here, so that a folder's auto_map never comes into play.
        return CONFIG_MAPPING[source.config["model_type"]].from_pretrained(
            str(source.path), local_files_only=True
        )


def class_of(config: Any) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM._model_mapping[type(config)]


def context_of(config: Any) -> int:
    """Tokens that the model was made for, with the scaling of its positions."""
    text = config.get_text_config()
    for name in ("max_position_embeddings", "max_seq_len", "seq_length", "n_positions"):
        stated = getattr(text, name, None)
        if isinstance(stated, int) and stated > 0:
            break
    else:
        return NO_LIMIT
    extended = getattr(text, "max_sequence_length", None) or 0
    for rope in _ropes(text):
        if rope.get("rope_type") == "yarn" and rope.get("original_max_position_embeddings"):
            stretched = rope["original_max_position_embeddings"] * (rope.get("factor") or 1)
            extended = max(extended, int(stretched))
    return max(stated, extended)


def _ropes(text: Any) -> list[Mapping[str, Any]]:
    """One set of parameters, or one for each type of layer."""
    rope = getattr(text, "rope_parameters", None) or {}
    return [rope] if "rope_type" in rope else [part for part in rope.values() if isinstance(part, Mapping)]


def fingerprint(source: Source, config: Any) -> dict[str, Any]:
    """The weights' and, since positions and scales stand there, the configuration's content."""
    told = {key: value for key, value in config.to_dict().items() if key not in _VOLATILE}
    text = json.dumps(told, sort_keys=True, default=str)
    return {**source.fingerprint(), "config": hashlib.sha256(text.encode()).hexdigest()}


def build(config: Any) -> nn.Module:
    """The model on the meta device; its buffers are real."""
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    with init_empty_weights():
        made: Any = AutoModelForCausalLM.from_config(config)
    made.tie_weights()
    found: nn.Module = made
    return found


def read_tokenizer(source: Source) -> Any:
    """The base's own tokenizer, fast where there is one. ProblemsError LS4107 where it has none that can be
    read without its own code."""
    quiet_libraries()
    from transformers import AutoTokenizer

    from ._template_bounds import bound_templates

    bound_templates()
    folder = source.path if source.path.is_dir() else source.path.parent
    extra = {"gguf_file": source.path.name} if source.kind == "gguf" else {}
    try:
        return AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False, **extra
        )
    except (OSError, ValueError, KeyError, ImportError, TypeError) as error:
        reason = (str(error) or type(error).__name__).strip().splitlines()[0][:300]
        raise stop("LS4107", source, reason=reason) from error


def load_weights(
    source: Source,
    config: Any,
    *,
    device: torch.device,
    dtype: torch.dtype,
    quantization: str,
    attention: str,
) -> nn.Module:
    """The model by Transformers' own loader: local files, safetensors or GGUF, no code of the model's.

    Raises ProblemsError: LS4105 unreadable, LS4108 weights missing or of another shape, LS4109 a GGUF file
    cannot be quantised again.
    """
    from transformers import AutoModelForCausalLM

    loader: Any = AutoModelForCausalLM
    gguf = source.kind == "gguf"
    if gguf and quantization != "none":
        raise stop("LS4109", source, quantization=quantization)
    extra: dict[str, Any] = {"config": config, "use_safetensors": True}
    if gguf:
        extra = {"gguf_file": source.path.name}
    if quantization != "none":
        extra["quantization_config"] = settings("transformers", quantization, dtype)
    if quantization != "none" or device.type != "cpu":
        extra["device_map"] = {"": str(device)}
    quiet_libraries()
    with _reading(source):
        module, report = loader.from_pretrained(
            str(source.path.parent if gguf else source.path),
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            attn_implementation=attention,
            **extra,
        )
    lost = sorted({*report["missing_keys"], *(entry[0] for entry in report["mismatched_keys"])})
    if lost:
        raise stop("LS4108", source, count=len(lost), names=", ".join(lost[:3]))
    keep_weights(module)
    if gguf:
        # Its weights are plain numbers now; with the mark left on, the library refuses to save or train it.
        module.hf_quantizer = None
        module.is_quantized = False
        if hasattr(module.config, "quantization_config"):
            del module.config.quantization_config
    found: nn.Module = module
    return found
