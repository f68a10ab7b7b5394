"""What a family of base models is: a data sheet and a few verbs. The training loop knows this file only."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Protocol

from lora_scripts.core.catalogue import say

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import Tensor, nn

    from lora_scripts.config.schema import RunConfig
    from lora_scripts.data.sample import Sample

    from ._flow import FlowRule
    from ._source import Source
    from ._stages import StageOptions

Item = Mapping[str, Any]
"""One example after its stages: name -> tensor."""
Batch = dict[str, Any]
"""Several examples, collated: name -> CPU tensor with a leading batch axis."""
PromptInputs = dict[str, Any]
"""One encoded prompt: keyword of the Diffusers pipeline's call -> tensor with a leading axis of one."""


@dataclass(frozen=True)
class Unsupported:
    """A feature that a family does not have, and why (a ``say`` key)."""

    reason: str


@dataclass(frozen=True)
class Component:
    """One part of a base model.

    ``storage``: "asked" keeps it in the dtype that ``load`` is called with, "float32" always in full
    precision, "wide" as asked but bfloat16 instead of float16, in which it would overflow. ``optional``: a
    base works without it. ``kohya``: prefix of its LoRA keys, None where it is never adapted. ``inner``: what
    kohya names carry in front of the module's own name (CLIP: ``text_model.``), which newer libraries have
    dropped. ``fused``: ends of the names of modules that clients keep as one weight and so take together or
    not at all.
    """

    name: str
    library: Literal["diffusers", "transformers"]
    class_name: str
    storage: Literal["asked", "float32", "wide"] = "asked"
    kohya: str | None = None
    inner: str = ""
    fused: tuple[str, ...] = ()
    optional: bool = False


@dataclass(frozen=True)
class Sheet:
    """The facts about a family that others read without loading anything.

    ``predictor``: the component that predicts (a U-Net, a language model). ``target_presets``: preset ->
    component -> regular expressions that match whole module names. Of pictures only: ``tokenizers``, folder
    names of its tokenizers; ``base_versions`` (``ss_base_model_version``) and ``architectures`` (ModelSpec),
    by prediction type, the latter under ``guided`` of bases that are told a guidance scale where that makes a
    difference; ``implementation``, whose code the LoRA's names follow (ModelSpec); ``convolutions``,
    component -> regular expressions of the wider ones, which ``conv_rank`` takes along; ``lora_layout``, the
    one that most programs read with its full effect; ``network_module``, sd-scripts' name for such LoRAs;
    ``guidance``, the scale that pictures are drawn with, and ``sampler``, the solver's name in WebUIs;
    ``caption_tokens``, how many of a caption are read where the configuration has no say in it;
    ``trainable``, a regular expression of the predictor's modules that LoRAs may adapt, where not all, and
    ``idle``, those of them that nothing depends on, ``last`` standing for the number of the last block.
    """

    name: str
    title: str
    task: str
    required_fields: tuple[str, ...]
    components: Mapping[str, Component]
    predictor: str
    target_presets: Mapping[str, Mapping[str, tuple[str, ...]]]
    default_preset: str
    supports: Mapping[str, bool | Unsupported]
    tokenizers: tuple[str, ...] = ("tokenizer",)
    base_versions: Mapping[str, str] = field(default_factory=dict)
    architectures: Mapping[str, str] = field(default_factory=dict)
    implementation: str = ""
    resolution: int = 0
    lora_layout: Literal["kohya", "diffusers"] = "kohya"
    network_module: str = "networks.lora"
    guidance: float = 7.0
    sampler: str = "DPM++ 2M"
    trainable: str = ""
    idle: tuple[str, ...] = ()
    caption_tokens: int = 0
    convolutions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def named(self, lang: str | None = None) -> str:
        """``title`` for people: a product has one name everywhere, a kind of model is said in words."""
        return say(f"families.kind.{self.name}", lang) if self.task == "text-generation" else self.title

    @property
    def text_encoders(self) -> tuple[str, ...]:
        """The components besides the predictor that a LoRA can adapt."""
        return tuple(n for n, part in self.components.items() if part.kohya and n != self.predictor)


@dataclass(frozen=True)
class Description:
    """A base model, known from its configuration alone: no weights are read.

    ``build`` makes each component on the meta device: only what needs its layers pays for the libraries that
    know them.
    """

    source: Source
    family: str
    fingerprint: Mapping[str, Any]
    build: Callable[[], dict[str, nn.Module]] = field(repr=False)

    @cached_property
    def modules(self) -> Mapping[str, Mapping[str, tuple[int, ...]]]:
        """Component -> module name -> shape of its weight: every linear layer and 2-D convolution."""
        from ._components import weight_shapes

        return {name: weight_shapes(module) for name, module in self.build().items()}

    @cached_property
    def parameters(self) -> Mapping[str, int]:
        """Component -> number of parameters."""
        return {name: sum(p.numel() for p in module.parameters()) for name, module in self.build().items()}


@dataclass(frozen=True, kw_only=True)
class ImageDescription(Description):
    """``resolution`` and ``size_multiple`` are in pixels. ``prediction_settled``: False where nothing says
    what the base predicts, so that it must be tried out; ``prediction_type`` is then the likelier one.
    ``latent_factor``: pixels for one latent, along a side; ``text_width``: numbers that a token becomes.
    ``guided``: its predictor is told a guidance scale. ``largest_side``: pixels that a side may have, 0 where
    there is no limit."""

    resolution: int
    size_multiple: int
    largest_side: int = 0
    prediction_type: str
    prediction_settled: bool = True
    guided: bool = False
    latent_channels: int = 4
    latent_factor: int = 8
    text_width: int = 768


@dataclass(frozen=True, kw_only=True)
class TextDescription(Description):
    """``model_type`` as Transformers calls it, ``context`` in tokens, ``vocabulary`` in words of the head."""

    model_type: str
    context: int
    vocabulary: int


@dataclass(kw_only=True)
class Model:
    """A loaded base, frozen. ``modules``: component -> module; one that was released is absent, its
    configuration and hash stay. ``quantization``: ``none``, ``4bit`` or ``8bit``."""

    family: Any
    description: Any
    modules: dict[str, nn.Module]
    tokenizers: dict[str, Any]
    configs: Mapping[str, Mapping[str, Any]]
    device: torch.device
    dtype: torch.dtype
    quantization: str = "none"
    hashes: dict[str, str] = field(default_factory=dict)

    @property
    def predictor(self) -> nn.Module:
        return self.modules[self.family.sheet.predictor]

    @property
    def tokenizer(self) -> Any:
        return self.tokenizers[self.family.sheet.tokenizers[0]]

    def component_hash(self, name: str) -> str:
        """SHA-256, hex, of a component's weights: caches are keyed by what they hold."""
        if name not in self.hashes:
            from ._components import hash_of_module

            self.hashes[name] = hash_of_module(self.modules[name])
        return self.hashes[name]

    def release(self, *names: str) -> None:
        """Lets go of components that nobody needs any more; their hash stays known."""
        for name in names:
            if name in self.modules:
                self.component_hash(name)
                del self.modules[name]


@dataclass(kw_only=True)
class ImageModel(Model):
    """``schedule``: the noise schedule to train on. ``noise_offset``: how far the whole noise of a picture is
    shifted at random in training, in standard deviations. ``clip_skip``: from which layer of the text encoder
    text is taken, counted from the end; 1 is the last. ``flow``: how a flow-matching base is trained.
    ``waiting``: components that ``complete`` loads, when what is used before them has left memory."""

    family: ImageFamily
    description: ImageDescription
    scheduler_config: dict[str, Any]
    schedule: Any
    noise_offset: float = 0.0
    clip_skip: int = 1
    flow: FlowRule | None = None
    waiting: dict[str, Callable[[], nn.Module]] = field(default_factory=dict, repr=False)

    def complete(self) -> None:
        """Loads what was left for later."""
        while self.waiting:
            name, load = self.waiting.popitem()
            self.modules[name] = load()


@dataclass(kw_only=True)
class TextModel(Model):
    """``packing``: rows of a batch are laid end to end, each seeing only itself; else they are padded.
    ``sharing``: what rows of a pack have in common at their beginning is computed once."""

    family: TextFamily
    description: TextDescription
    packing: bool = True
    sharing: bool = False


@dataclass(frozen=True)
class Stage:
    """One cacheable step from a sample to what the loss needs.

    ``key``: content key of a sample's result. ``group``: samples of one group may run in one call.
    ``run``: at most ``batch_size`` samples of one group -> one dict of CPU tensors for each.
    ``components``: the parts that must be loaded while it runs. ``cached``: False where results are too many
    to keep: it runs for each batch then, and its components stay loaded.
    """

    name: str
    components: tuple[str, ...]
    key: Callable[[Sample], str]
    group: Callable[[Sample], Hashable]
    run: Callable[[list[Sample]], list[dict[str, Any]]]
    batch_size: int = 1
    cached: bool = True


@dataclass(frozen=True)
class Draw:
    """The random part of one example in one epoch. ``timestep``: fixed, to measure by, the noise being
    plain then; else it is drawn."""

    seed: int
    timestep: int | None = None


class Family(Protocol):
    """The verbs that every family has. Add one only when two families need it."""

    sheet: Sheet

    def recognises(self, source: Source) -> bool:
        """Whether these weights are this family's. Reads headers and configurations, imports nothing."""
        ...

    def collate(self, model: Any, items: Sequence[Item], draws: Sequence[Draw]) -> Batch: ...

    def predict(self, model: Any, batch: Batch) -> Tensor: ...

    def set_gradient_checkpointing(self, model: Any, on: bool) -> None: ...


class ImageFamily(Family, Protocol):
    """Latent diffusion: ``predict`` and ``target`` give (B, C, h, w)."""

    def describe(
        self, source: Source, *, components: Mapping[str, str] | None = None, prediction_type: str = "auto"
    ) -> ImageDescription: ...

    def load(
        self,
        source: Source,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        components: Mapping[str, str] | None = None,
        prediction_type: str = "auto",
        quantization: str = "none",
        later: bool = False,
    ) -> ImageModel:
        """``quantization``: of predictor and text encoders. ``later``: the predictor waits for
        ``ImageModel.complete``."""
        ...

    def configure(self, model: Any, config: RunConfig) -> None:
        """Takes over what a configuration says about how the base is trained."""
        ...

    def stages(self, model: Any, asked: StageOptions = ...) -> list[Stage]: ...

    def caption_cutter(
        self, source: Source, components: Mapping[str, str] | None = None
    ) -> Callable[[str, int], tuple[int, str]]:
        """Caption and limit -> how many tokens it has, and the words behind the limit; without torch."""
        ...

    def caption_counter(
        self, source: Source, components: Mapping[str, str] | None = None
    ) -> Callable[[str], int] | None:
        """Caption -> how many tokens of it are kept in the cache; None where all captions take the same."""
        ...

    def target(self, model: Any, batch: Batch) -> Tensor: ...

    def snr(self, model: Any, timesteps: Tensor) -> Tensor:
        """Signal-to-noise ratio (B,) of a batch's ``timesteps``, float64 on the CPU."""
        ...

    def time_weight(self, model: Any, timesteps: Tensor) -> Tensor | None:
        """What each of a batch's ``timesteps`` counts in the loss, (B,); None where all count alike."""
        ...

    def rescale(self, model: Any) -> None:
        """Makes the last step of the noise schedule noise alone."""
        ...

    def settle(self, model: Any, prediction_type: str) -> None:
        """Decides what the base is taken to predict."""
        ...

    def prompts(self, model: Any, texts: Sequence[str]) -> list[PromptInputs]: ...

    def pipeline(self, model: Any) -> Any: ...

    def run_pipeline(self, pipe: Any, told: Mapping[str, Tensor], **settings: Any) -> Any:
        """What ``pipe`` makes of encoded prompts (``prompts``, on the model's device)."""
        ...

    def tune(self, predictor: Any, device: torch.device, dtype: torch.dtype) -> None: ...

    def decode(self, model: Any, latents: Tensor, size: tuple[int, int] | None = None) -> list[Any]: ...

    def load_lora(self, pipe: Any, path: Path, name: str) -> None:
        """Puts the LoRA in the file ``path`` onto ``pipe`` under ``name``."""
        ...

    def probe_text(self, model: Any, generator: torch.Generator) -> dict[str, Tensor]: ...

    def latent_factor(self, model: Any) -> int: ...

    def names(self, component: str, module_name: str) -> str: ...


class TextFamily(Family, Protocol):
    """Causal language models: ``predict`` gives log-probabilities (N,) of the batch's target tokens.

    An ``Item`` holds ``ids`` (T,) and ``targets`` (T,) bool: which tokens carry loss; a preference pair also
    ``rejected_ids`` and ``rejected_targets``. A ``Batch`` holds at least ``labels`` (N,), the target tokens,
    and ``rows`` (N,), the sequence that each belongs to.
    """

    def describe(self, source: Source) -> TextDescription: ...

    def tokenizer(self, source: Source) -> Any:
        """The base's own tokenizer, with its chat template if it has one. Loads no weights."""
        ...

    def load(
        self,
        source: Source,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        quantization: str = "none",
        packing: bool = True,
    ) -> TextModel: ...

    def set_gradient_checkpointing(self, model: Any, on: bool, *, offload: bool = False) -> None:
        """``offload`` keeps what is saved between layers in the computer's memory."""
        ...

    def packing_is_isolated(self, model: Any, rows: Sequence[Any], longest: int) -> bool:
        """Whether rows (of token numbers) that are laid end to end leave each other alone, tried out on
        these; ``longest``: tokens of the longest row that is to come."""
        ...

    def hits(self, model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """As ``predict``, and for each target token (N,) bool whether it was the likeliest. No gradient."""
        ...
