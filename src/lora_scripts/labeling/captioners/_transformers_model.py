"""A vision model that writes, through Transformers' own classes and never through code that comes with it."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_scripts.core.problems import Problem, ProblemsError
from lora_scripts.families._components import quiet_libraries
from lora_scripts.families._header import convert_command, pickles_in, read_header
from lora_scripts.families._source import confine_shards, weights_in

from .._captioner import Asked
from ._models import missing_package, stop

if TYPE_CHECKING:
    import torch

DESCRIBING = ("config.json", "preprocessor_config.json", "processor_config.json", "tokenizer_config.json")
"""Files in which a model names its classes, and, under ``auto_map``, programs of its own."""
OTHERS = {"blip": "blip", "blip-2": "blip", "florence2": "florence2"}
"""model_type -> its captioner; every other one that looks and writes is a chat model."""
FILMS = "video_processor"
VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model", "tekken.json")


@dataclass
class VisionModel:
    """A model in evaluation on ``device``, with the processor that turns pictures and texts into its input.

    ``unfinished``: of the pictures described last, those whose text the limit of tokens cut.
    """

    model: Any
    processor: Any
    device: torch.device
    dtype: torch.dtype
    asked: Asked

    @property
    def batch_size(self) -> int:
        """Pictures at a time: as asked, else by the model's size; the caller halves it if memory runs out."""
        if self.asked.batch_size:
            return self.asked.batch_size
        millions = sum(p.numel() for p in self.model.parameters()) / 1e6
        if self.device.type == "cuda":
            return 32 if millions < 600 else 8 if millions < 5000 else 2
        return 16 if millions < 50 else 2

    def generate(self, inputs: Any, most: int | None = None) -> torch.Tensor:
        """Token ids, (pictures, length), by greedy or beam search; ``inputs``: the processor's; ``most``: new
        tokens that the model has room for."""
        import torch

        placed = inputs.to(self.device, self.dtype)
        limit = self.asked.max_new_tokens if most is None else max(1, min(self.asked.max_new_tokens, most))
        with torch.inference_mode():
            found: torch.Tensor = self.model.generate(
                **placed, max_new_tokens=limit, num_beams=self.asked.beams, do_sample=False
            )
        return found

    def close(self) -> None:
        import torch

        self.model = self.processor = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def ended(ids: torch.Tensor, generation: Any) -> list[bool]:
    """For each row of new tokens (pictures, length) whether it came to an end of itself."""
    ends = generation.eos_token_id
    known = set(ends) if isinstance(ends, list) else {ends}
    return [bool(known & set(row)) for row in ids.tolist()]


def read_json(path: Path) -> Mapping[str, Any]:
    """An object in a JSON file, empty where there is no file; ProblemsError LS3157 where it is none."""
    if not path.is_file():
        return {}
    try:
        told = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise stop("LS3157", path, reason=str(error)[:200]) from error
    if not isinstance(told, dict):
        raise stop("LS3157", path, reason=type(told).__name__)
    return told


def _fetches_code(config: Any) -> bool:
    """Whether a configuration, or a part of it, names a hub's repository for its attention: a program that
    the library would fetch and run."""
    if not isinstance(config, Mapping):
        return False
    named = (config.get(key) for key in ("attn_implementation", "_attn_implementation"))
    return any("/" in str(name) for name in named) or any(map(_fetches_code, config.values()))


def check(path: Path, captioner: str, kinds: Collection[str], instead: str) -> str:
    """The folder's ``model_type``, once everything is there that can be asked without loading.

    Raises ProblemsError: LS3161 no model's folder, LS3153 it would need code of its own, LS3154 and LS3155
    another kind of model, LS4013 pickles only, LS3156 no weights, LS4003 to LS4005 weights of another format,
    LS3157 no vocabulary.
    """
    config = read_json(path / "config.json")
    if (path / "selected_tags.csv").is_file():
        raise stop("LS3154", path, kind="ONNX", captioner=captioner, other="wd14")
    if not config:
        raise stop("LS3161", path)
    if any("auto_map" in read_json(path / name) for name in DESCRIBING) or _fetches_code(config):
        raise stop("LS3153", path, instead=instead)
    kind = str(config.get("model_type", "?"))
    if kind not in kinds:
        from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

        other = OTHERS.get(kind, "qwen-vl" if kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES else None)
        if other is None or other == captioner:
            raise stop("LS3155", path, kind=kind, instead=instead)
        raise stop("LS3154", path, kind=kind, captioner=captioner, other=other)
    confine_shards(path)
    weights = weights_in(path)
    if not weights:
        if pickles_in(path):
            raise stop("LS4013", path, component="model", command=convert_command(path))
        raise stop("LS3156", path, instead=instead)
    for file in weights:
        read_header(file)
    if not any(any(path.glob(pattern)) for pattern in VOCABULARIES):
        # the library would go on with an empty vocabulary, and every caption would be noise
        raise stop("LS3157", path, reason=VOCABULARIES[0])
    return kind


@contextmanager
def _reading(path: Path, device: str) -> Iterator[None]:
    """What Transformers raises over a damaged or incomplete folder becomes LS3157, a full memory LS3168."""
    import torch
    from huggingface_hub.errors import StrictDataclassError

    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise stop("LS3168", path, device=device) from error
    except ImportError as error:
        if "torchvision" in str(error).lower():
            raise missing_package("torchvision") from error
        raise stop("LS3157", path, reason=_first_line(error)) from error
    except (
        OSError, ValueError, LookupError, RuntimeError, TypeError, AttributeError, StrictDataclassError
    ) as error:  # fmt: skip
        raise stop("LS3157", path, reason=_first_line(error)) from error


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]


def device_of(asked: Asked) -> torch.device:
    """Where to compute: as asked, else the first card. ProblemsError LS3166 where it is not there."""
    import torch

    cards = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if asked.device == "auto":
        return torch.device(next(name for name, there in cards.items() if there))
    try:
        device = torch.device(asked.device)
        there = cards.get(device.type, False)
        if device.type == "cuda" and there:
            there = (device.index or 0) < torch.cuda.device_count()
    except RuntimeError:
        there = False
    if not there:
        known = ", ".join(name for name, has in cards.items() if has)
        raise ProblemsError(Problem("LS3166", {"device": asked.device, "known": known}))
    return device


def dtype_of(asked: Asked, device: torch.device) -> torch.dtype:
    """bf16 on a card that computes it natively, fp16 on an older one, else fp32."""
    import torch

    named = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    if asked.dtype in named:
        return named[asked.dtype]
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def load(path: Path, kind: str, asked: Asked) -> VisionModel:
    """The model in a folder that ``check`` has passed, which holds a ``kind``.

    Raises ProblemsError: LS3157 unreadable, LS3158 weights missing or of another shape, LS3152 a part of it
    needs a package that is not installed, LS3166 no such device, LS3168 too little memory.
    """
    device = device_of(asked)
    dtype = dtype_of(asked, device)
    from lora_scripts.families._template_bounds import bound_templates

    quiet_libraries()
    bound_templates()
    from transformers import CONFIG_MAPPING, AutoModelForImageTextToText

    with _reading(path, str(device)):
        # The classes are chosen here, so that a folder never chooses a program of its own.
        config = CONFIG_MAPPING[kind].from_pretrained(str(path), local_files_only=True)
        processor = _read_processor(path, config)
        of_kind: Any = AutoModelForImageTextToText._model_mapping[type(config)]
        placed = {} if device.type == "cpu" else {"device_map": {"": str(device)}}
        model, report = of_kind.from_pretrained(
            str(path),
            config=config,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            **placed,
        )
    lost = sorted({*report["missing_keys"], *(entry[0] for entry in report["mismatched_keys"])})
    if lost:
        raise stop("LS3158", path, count=len(lost), names=", ".join(lost[:3]))
    for name in ("temperature", "top_p", "top_k"):  # chat models come with settings for drawing lots
        setattr(model.generation_config, name, None)
    return VisionModel(model.eval(), processor, device, dtype, asked)


def _read_processor(path: Path, config: Any) -> Any:
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING, processor_class_from_name
    from transformers.utils import is_torchvision_available

    named = next((told["processor_class"] for name in DESCRIBING[1:]
                  if "processor_class" in (told := read_json(path / name))), None)  # fmt: skip
    of_kind: Any = (processor_class_from_name(named) if named else None) or PROCESSOR_MAPPING[type(config)]
    if FILMS in of_kind.get_attributes() and not is_torchvision_available():
        of_kind = without_films(of_kind)
    processor = of_kind.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
    processor.tokenizer.padding_side = "left"
    return processor


def without_films(of_kind: Any) -> Any:
    """The processor's class without its part for films, which alone would need torchvision."""
    names = of_kind.get_attributes()

    class Stills(of_kind):
        @classmethod
        def _get_arguments_from_pretrained(cls, *args: Any, **kwargs: Any) -> list[Any]:
            class Parts(of_kind):
                @classmethod
                def get_attributes(cls) -> list[str]:
                    return [name for name in names if name != FILMS]

            found: list[Any] = Parts._get_arguments_from_pretrained(*args, **kwargs)
            found.insert(names.index(FILMS), None)
            return found

        @classmethod
        def get_attributes(cls) -> list[str]:
            return list(names)

        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            if argument_name == FILMS:
                return None
            return super().check_argument_for_proper_class(argument_name, argument)

    Stills.__name__ = of_kind.__name__
    return Stills
