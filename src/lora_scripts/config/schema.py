"""``RunConfig``: the one description of a run, behind YAML, ``--set``, the JSON schema and the documents.

What a key means is written once per language, in the catalogue under ``key.<name>``.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

TASK_ALIASES = {"text-to-image": "image-generation"}

DEFAULTS: dict[str, dict[str, Any]] = {
    "image-generation": {"epochs": 20, "learning_rate": 2e-4},
    "text-generation": {"epochs": 3, "learning_rate": 1e-4},
}
"""What stands where a configuration says nothing and the two tasks differ."""

RATES: dict[str, tuple[float, float]] = {
    "adamw": (1e-8, 0.1),
    "adamw8bit": (1e-8, 0.1),
    "adafactor": (1e-8, 0.1),
    "prodigy": (0.05, 10.0),
    "schedulefree": (1e-8, 1.0),
}
"""Learning rates between which an optimizer makes sense. Prodigy's is a factor of the one it finds itself."""
OWN_RATE = {"prodigy": 1.0}
OWN_SCHEDULE = ("schedulefree",)
"""Optimizers that average instead of lowering the rate: a schedule on top would spoil it."""


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise PydanticCustomError("number_expected", "a number is expected")
    return value


def _printable(value: Any) -> Any:
    if isinstance(value, str) and any(ord(char) < 32 or 0xD800 <= ord(char) < 0xE000 for char in value):
        raise PydanticCustomError("control_character", "a control character in a path")
    return value


def _unset(value: Any) -> Any:
    """``auto`` is what stands where nothing is written: what the base says counts."""
    return None if value == "auto" else value


def _task(value: Any) -> Any:
    return TASK_ALIASES.get(value, value) if isinstance(value, str) else value


def harmless(default: Any, task: str | None = None) -> Any:
    """A field that may differ when a run is resumed: it does not change what is learnt."""
    return Field(default, json_schema_extra={"harmless": True} | ({"task": task} if task else {}))


def pictures(default: Any) -> Any:
    """A field of the picture task only."""
    return Field(default, json_schema_extra={"task": "image-generation"})


def texts(default: Any) -> Any:
    """A field of the text task only."""
    return Field(default, json_schema_extra={"task": "text-generation"})


Whole = Annotated[int, BeforeValidator(_no_bool)]
Real = Annotated[float, BeforeValidator(_no_bool)]
PathText = Annotated[str, BeforeValidator(_printable), Field(min_length=1)]
MOST = 10**9
"""Steps, epochs and the like: more is a slip of the finger, and no clock or float could count it."""
Every = Annotated[Whole, Field(ge=1, le=MOST)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Side = Annotated[Whole, Field(ge=8, le=4096)]
Repeats = Annotated[Whole, Field(ge=1, le=10_000)]
Kept = Annotated[Whole, Field(ge=0, le=1000)]
Rate = Annotated[Real, Field(ge=0, le=1)]


class DatasetEntry(Section):
    """One of several data sets. Where a picture key is unset, the one of the same name at the top counts."""

    path: PathText
    weight: Annotated[Real, Field(gt=0, le=100)] = texts(1.0)
    columns: dict[str, str] = texts({})
    metadata_path: PathText | None = pictures(None)
    repeats: Repeats | None = pictures(None)
    trigger_word: str | None = pictures(None)
    caption_prefix: str | None = pictures(None)
    caption_suffix: str | None = pictures(None)
    shuffle_caption: bool | None = pictures(None)
    keep_tokens: Kept | None = pictures(None)
    caption_dropout_rate: Rate | None = pictures(None)
    regularization: bool = pictures(False)


class Validation(Section):
    data_dir: PathText | None = None
    split: Literal["auto"] | Annotated[Real, Field(ge=0, le=0.5)] = "auto"
    every_steps: Every | None = harmless(None)
    timesteps: Annotated[Whole, Field(ge=1, le=64)] = pictures(4)
    early_stopping_patience: Every | None = None


class Preview(Section):
    prompts: list[Annotated[str, Field(min_length=1)]] = harmless([])
    negative_prompt: str = harmless("", "image-generation")
    every_steps: Every | None = harmless(None)
    seed: Annotated[Whole, Field(ge=0, lt=2**63)] = harmless(42)
    steps: Annotated[Whole, Field(ge=1, le=1000)] = harmless(25, "image-generation")
    guidance_scale: Annotated[
        Literal["auto"] | Annotated[Real, Field(ge=0)] | None, BeforeValidator(_unset)
    ] = harmless(None, "image-generation")
    width: Annotated[Whole, Field(ge=8, le=8192)] | None = harmless(None, "image-generation")
    height: Annotated[Whole, Field(ge=8, le=8192)] | None = harmless(None, "image-generation")
    max_new_tokens: Annotated[Whole, Field(ge=1, le=4096)] = harmless(128, "text-generation")
    temperature: Annotated[Real, Field(ge=0, le=2)] = harmless(0.0, "text-generation")


class Logging(Section):
    tensorboard: bool = harmless(True)
    every_steps: Every = harmless(1)
    histogram_every_steps: Every = harmless(50)
    trackers: list[Literal["wandb", "mlflow", "comet", "clearml", "swanlab", "trackio"]] = harmless([])
    tracker_project: Annotated[str, Field(min_length=1)] = harmless("lora-scripts")
    tracker_run_name: Annotated[str, Field(min_length=1)] | None = harmless(None)
    tracker_offline: bool = harmless(False)


class RunConfig(Section):
    task_type: Annotated[Literal["image-generation", "text-generation"], BeforeValidator(_task)] = (
        "image-generation"
    )

    train_data_dir: PathText
    metadata_path: PathText | None = None
    trigger_word: str | None = pictures(None)
    repeats: Repeats = pictures(1)
    caption_prefix: str = pictures("")
    caption_suffix: str = pictures("")
    shuffle_caption: bool = pictures(False)
    keep_tokens: Kept = pictures(0)
    caption_dropout_rate: Rate = pictures(0.0)
    caption_variants: Annotated[Whole, Field(ge=1, le=1000)] | None = pictures(None)
    max_caption_tokens: Literal[75, 150, 225] = pictures(75)
    resolution: Literal["auto"] | Side | Annotated[list[Side], Field(min_length=1, max_length=8)] = pictures(
        "auto"
    )
    random_flip: bool = pictures(False)
    random_crop: bool = pictures(False)
    loss_mask: PathText = pictures("none")
    prior_loss_weight: Annotated[Real, Field(ge=0, le=100)] = pictures(1.0)
    background: Annotated[str, Field(pattern=r"^(white|black|gray|#[0-9a-fA-F]{6})$")] = pictures("white")
    on_bad_image: Literal["stop", "skip"] = pictures("stop")
    on_animation: Literal["first", "skip"] = pictures("first")
    strict: bool = harmless(False, "image-generation")
    datasets: list[DatasetEntry] = Field(default_factory=list)
    columns: dict[str, str] = texts({})
    system: str | None = texts(None)
    chat_template: PathText | None = texts(None)
    thinking: Literal["keep", "drop"] = texts("keep")
    max_length: Literal["auto"] | Annotated[Whole, Field(ge=8, le=MOST)] = texts("auto")
    on_long_row: Literal["truncate", "split", "drop"] = texts("truncate")
    on_bad_row: Literal["stop", "skip"] = texts("stop")
    loss_on: Literal["answers", "all"] = texts("answers")
    cache_dir: PathText | None = harmless(None)

    base_model: PathText
    family: str = "auto"
    components: dict[str, PathText] = pictures({})
    quantization: Literal["none", "4bit", "8bit"] = "none"
    prediction_type: Literal["auto", "epsilon", "v_prediction", "flow"] = pictures("auto")
    timestep_sampling: Annotated[
        Literal["auto", "uniform", "logit_normal", "mode"] | None, BeforeValidator(_unset)
    ] = pictures(None)
    logit_mean: Annotated[Real, Field(ge=-10, le=10)] | None = pictures(None)
    logit_std: Annotated[Real, Field(gt=0, le=10)] | None = pictures(None)
    mode_scale: Annotated[Real, Field(ge=-1, le=1.75)] | None = pictures(None)
    discrete_flow_shift: Annotated[
        Literal["auto", "resolution"] | Annotated[Real, Field(gt=0, le=100)] | None, BeforeValidator(_unset)
    ] = pictures(None)
    weighting_scheme: Literal["none", "sigma_sqrt", "cosmap"] | None = pictures(None)
    guidance_scale: Annotated[
        Literal["auto"] | Annotated[Real, Field(ge=0, le=100)] | None, BeforeValidator(_unset)
    ] = pictures(None)

    lora_rank: Annotated[Whole, Field(ge=1, le=1024)] = 16
    lora_alpha: Annotated[Real, Field(gt=0)] | None = None
    lora_dropout: Annotated[Real, Field(ge=0, lt=1)] = 0.0
    target_modules: str | list[str] = "auto"
    conv_rank: Annotated[Whole, Field(ge=1, le=1024)] | None = pictures(None)
    conv_alpha: Annotated[Real, Field(gt=0)] | None = pictures(None)
    rank_pattern: dict[str, Annotated[Whole, Field(ge=1, le=1024)]] = pictures({})
    lr_pattern: dict[str, Annotated[Real, Field(gt=0, le=1000)]] = pictures({})
    init_from: PathText | None = pictures(None)
    clip_skip: Annotated[Whole, Field(ge=1, le=24)] = pictures(1)
    use_rslora: bool = False
    use_dora: bool = False
    init_lora_weights: Literal["default", "pissa"] = texts("default")
    train_text_encoder: bool = pictures(False)

    objective: Literal["auto", "sft", "dpo", "orpo"] = texts("auto")
    loss_type: Literal["l2", "huber", "smooth_l1"] = pictures("l2")
    huber_c: Annotated[Real, Field(gt=0, le=1)] = pictures(0.1)
    huber_schedule: Literal["snr", "exponential", "constant"] = pictures("snr")
    min_snr_gamma: Annotated[Real, Field(gt=0, le=1000)] | None = pictures(None)
    debiased_estimation_loss: bool = pictures(False)
    noise_offset: Annotated[Real, Field(ge=0, le=1)] = pictures(0.0)
    zero_terminal_snr: bool = pictures(False)
    dpo_beta: Annotated[Real, Field(gt=0, le=10)] = texts(0.1)
    orpo_beta: Annotated[Real, Field(gt=0, le=10)] = texts(0.1)
    packing: bool = texts(True)
    batch_size: Annotated[Whole, Field(ge=1, le=4096)] = 4
    gradient_accumulation_steps: Annotated[Whole, Field(ge=1, le=4096)] = 1
    epochs: Every | None = harmless(None)
    max_steps: Every | None = harmless(None)
    learning_rate: Annotated[Real, Field(gt=0, le=10)] = 2e-4
    text_encoder_learning_rate: Annotated[Real, Field(gt=0, le=10)] | None = pictures(None)
    loraplus_lr_ratio: Annotated[Real, Field(ge=1, le=1000)] | None = texts(None)
    optimizer: Literal["adamw", "adamw8bit", "adafactor", "prodigy", "schedulefree"] = "adamw"
    weight_decay: Annotated[Real, Field(ge=0, lt=1)] = 0.01
    lr_scheduler: Literal[
        "constant", "linear", "cosine", "cosine_with_restarts", "polynomial", "inverse_sqrt",
        "warmup_stable_decay",
    ] = "constant"  # fmt: skip
    lr_num_cycles: Annotated[Whole, Field(ge=1, le=1000)] = 1
    lr_power: Annotated[Real, Field(gt=0, le=10)] = 1.0
    lr_min_ratio: Annotated[Real, Field(ge=0, le=1)] = 0.0
    ema_decay: Annotated[Real, Field(gt=0, lt=1)] | None = None
    warmup_steps: Annotated[Whole, Field(ge=0, le=MOST)] = 0
    max_grad_norm: Annotated[Real, Field(gt=0)] = 1.0
    spike_guard: bool = harmless(True)
    mixed_precision: Literal["auto", "fp16", "bf16", "no"] = "auto"
    gradient_checkpointing: Literal["auto"] | bool = harmless("auto")
    activation_offload: bool = harmless(False, "text-generation")
    seed: Annotated[Whole, Field(ge=0, lt=2**63)] = 42
    num_processes: Literal["auto"] | Annotated[Whole, Field(ge=1, le=1024)] = harmless("auto")

    output_dir: PathText
    output_name: (
        Annotated[str, Field(pattern=r"^[^/\\:*?\"<>|\x00-\x1f.][^/\\:*?\"<>|\x00-\x1f]*$")] | None
    ) = None
    save_steps: Every = harmless(100)
    keep_checkpoints: Every = harmless(3)
    keep_exports: Annotated[Whole, Field(ge=0, le=MOST)] | None = harmless(None)
    resume: Literal["auto", "never"] = harmless("auto")

    validation: Validation = Field(default_factory=Validation)
    preview: Preview = Field(default_factory=Preview, json_schema_extra={"harmless": True})
    logging: Logging = Field(default_factory=Logging, json_schema_extra={"harmless": True})

    @property
    def name(self) -> str:
        """``output_name``, else the last part of ``output_dir``: what a WebUI calls the LoRA."""
        if self.output_name:
            return self.output_name
        last = PurePath(self.output_dir.rstrip("/\\")).name
        if not last.strip("."):  # "." and "..", which no file can be called
            last = Path(self.output_dir).expanduser().resolve().name
        return last or "lora"

    @property
    def alpha(self) -> float:
        """``lora_alpha``, else the rank: a scale of one."""
        return float(self.lora_alpha if self.lora_alpha is not None else self.lora_rank)

    @property
    def side(self) -> int:
        """Pixels along a side that previews are drawn in and files name; of several the largest. Only of a
        resolved config."""
        sides = self.resolution if isinstance(self.resolution, list) else [int(self.resolution)]
        return max(sides)

    @property
    def window_size(self) -> int:
        """Examples in one optimizer step, whatever the number of processes."""
        return self.batch_size * self.gradient_accumulation_steps


WHOLE = frozenset({"components", "columns", "rank_pattern", "lr_pattern"})
"""Keys whose value is a mapping of the user's own names, not a section."""


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The model behind a section, or behind each item of a list of them."""
    if get_origin(annotation) is list:
        (annotation,) = get_args(annotation)
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _marked(mark: str, model: type[BaseModel], prefix: str = "") -> dict[str, Any]:
    """Dotted name -> value of ``mark``, for every key that bears it; items of a list have no number."""
    found: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        extra = field.json_schema_extra
        if isinstance(extra, dict) and mark in extra:
            found[prefix + name] = extra[mark]
        if section := section_of(field.annotation):
            found |= _marked(mark, section, f"{prefix}{name}.")
    return found


def harmless_keys() -> set[str]:
    """Dotted names of the keys that a resumed run may change."""
    return set(_marked("harmless", RunConfig))


def foreign_keys(task: str) -> set[str]:
    """Dotted names of the keys that mean nothing in ``task``."""
    return {name for name, owner in _marked("task", RunConfig).items() if owner != task}


def defaults(model: type[BaseModel] = RunConfig, prefix: str = "") -> dict[str, Any]:
    """Dotted name -> value of every key that may be left out, as ``flatten`` names them."""
    found: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        if field.is_required():
            continue
        value = field.get_default(call_default_factory=True)
        if isinstance(value, BaseModel):
            found |= defaults(type(value), f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as dotted names; lists and mappings of the user's own names stay whole."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict) and name not in WHOLE:
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def meant(config: RunConfig, without: Collection[str] = ()) -> dict[str, Any]:
    """The config as nested values: the keys of its task, less ``without`` (dotted) and what is unset."""
    left_out = foreign_keys(config.task_type) | set(without)

    def kept(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
        result = {}
        for name, value in values.items():
            if prefix + name in left_out:
                continue
            if isinstance(value, dict) and name not in WHOLE:
                value = kept(value, f"{prefix}{name}.")
            elif (
                not prefix and isinstance(value, list) and section_of(RunConfig.model_fields[name].annotation)
            ):
                value = [
                    {key: each[key] for key in each if f"{prefix}{name}.{key}" not in left_out}
                    for each in value
                ]
            if value not in ({}, []):
                result[name] = value
        return result

    return kept(config.model_dump(exclude_none=True))
