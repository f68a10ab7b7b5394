"""What causal language models share: from a source to a trainable model, and from rows to log-probabilities.

A family of its own derives from ``CausalFamily`` and overrides ``config``, ``tokenizer`` or ``load_module``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from . import _language_loading as loading
from ._base import Batch, Component, Draw, Item, Sheet, TextDescription, TextModel
from ._source import Source
from ._text_targets import PASSED_BY, PRESETS

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from ._heads import Head


def causal_sheet(name: str, title: str) -> Sheet:
    """The data sheet that every causal family has but for its name."""
    return Sheet(
        name=name,
        title=title,
        task="text-generation",
        required_fields=("ids", "targets"),
        components={"model": Component("model", "transformers", "AutoModelForCausalLM")},
        predictor="model",
        target_presets=PRESETS,
        default_preset="all-linear",
        supports={"gradient_checkpointing": True, "packing": True, "quantization": True},
    )


@dataclass(frozen=True, kw_only=True)
class CausalDescription(TextDescription):
    @cached_property
    def modules(self) -> Mapping[str, Mapping[str, tuple[int, ...]]]:
        """As of every description, less what would learn nothing: see ``PASSED_BY``."""
        own = super().modules
        return {
            part: {name: shape for name, shape in shapes.items() if not PASSED_BY.fullmatch(name)}
            for part, shapes in own.items()
        }


@dataclass(kw_only=True)
class CausalModel(TextModel):
    """``head``: how logits come from hidden states, checked when the model was loaded. ``offload``: what is
    kept for the backward pass waits in the computer's memory."""

    head: Head
    offload: bool = False


class CausalFamily:
    """The verbs of ``TextFamily`` for one model of Transformers with a causal head."""

    def __init__(self, sheet: Sheet) -> None:
        self.sheet = sheet

    def recognises(self, source: Source) -> bool:
        """Every language model but the ChatGLMs: one that cannot be trained gets its reason from
        ``describe``."""
        return loading.is_language_model(source)

    def config(self, source: Source) -> Any:
        """The configuration as a Transformers object. ProblemsError LS4013, LS4100 to LS4106."""
        return loading.read_config(source)

    def tokenizer(self, source: Source) -> Any:
        """The base's own tokenizer, with its chat template if it has one. ProblemsError LS4107."""
        return loading.read_tokenizer(source)

    def load_module(
        self,
        source: Source,
        config: Any,
        *,
        device: torch.device,
        dtype: torch.dtype,
        quantization: str,
        attention: str,
    ) -> nn.Module:
        """The model of Transformers' class with its weights. ProblemsError LS4105, LS4108, LS4109."""
        return loading.load_weights(
            source, config, device=device, dtype=dtype, quantization=quantization, attention=attention
        )

    def describe(self, source: Source) -> TextDescription:
        """Raises ProblemsError as ``config``."""
        return self._described(source, self.config(source))

    def _described(self, source: Source, config: Any) -> TextDescription:
        text = config.get_text_config()
        return CausalDescription(
            source=source,
            family=self.sheet.name,
            fingerprint=loading.fingerprint(source, config),
            build=lambda: {self.sheet.predictor: loading.build(config)},
            model_type=config.model_type,
            context=loading.context_of(config),
            vocabulary=text.vocab_size,
        )

    def load(
        self,
        source: Source,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        quantization: str = "none",
        packing: bool = True,
    ) -> CausalModel:
        """The base, frozen, in eval mode, without a cache. ``packing`` is taken back where rows laid end to
        end would see each other.

        Raises ProblemsError as ``config``, ``tokenizer`` and ``load_module``.
        """
        import torch

        from ._heads import find_head
        from ._lean_layers import make_lean
        from ._packed_attention import register

        place, asked = torch.device(device), dtype or torch.float32
        config = self.config(source)
        description = self._described(source, config)
        own = loading.class_of(config)._can_set_attn_implementation()
        module: Any = self.load_module(
            source,
            config,
            device=place,
            dtype=asked,
            quantization=quantization,
            attention=register() if own else "eager",
        )
        module.requires_grad_(False).eval()
        module.config.use_cache = False
        make_lean(module)
        model = CausalModel(
            family=self,
            description=description,
            modules={self.sheet.predictor: module},
            tokenizers={self.sheet.tokenizers[0]: self.tokenizer(source)},
            configs={self.sheet.predictor: module.config.to_dict()},
            device=place,
            dtype=asked,
            packing=False,
            quantization=quantization,
            head=find_head(module),
        )
        if packing and own:
            model.sharing = packing_is_isolated(model, sharing=True)
            model.packing = model.sharing or packing_is_isolated(model)
        return model

    def collate(self, model: Any, items: Sequence[Item], draws: Sequence[Draw] = ()) -> Batch:
        """See ``_text_batch.collate``; a preference pair gives two sequences."""
        from ._text_batch import batch_of

        return batch_of(items, packing=model.packing, sharing=model.sharing)

    def predict(self, model: Any, batch: Batch) -> Tensor:
        """Log-probabilities of the target tokens, (N,) float32, with gradient."""
        from ._token_loss import log_probs

        at, labels = batch["at"].to(model.device), batch["labels"].to(model.device)
        with _offloading(model):
            states = _states(model, batch)
            # Indexed rather than selected: a place may be shared, and its gradients come in a fixed order.
            return log_probs(states.flatten(0, 1)[at], labels, model.head)

    def hits(self, model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """As ``predict``, and for each target token (N,) bool whether it was the likeliest. No gradient."""
        import torch

        from ._token_loss import hits

        at, labels = batch["at"].to(model.device), batch["labels"].to(model.device)
        with torch.no_grad():
            states = _states(model, batch).flatten(0, 1).index_select(0, at)
            return hits(states, labels, model.head)

    def packing_is_isolated(self, model: Any, rows: Sequence[Any], longest: int) -> bool:
        """Whether these rows of token ids, at least three, see themselves only when laid end to end, and
        would if they were as long as the ``longest``: a model that attends in chunks packs what fits one."""
        chunk = getattr(model.predictor.config.get_text_config(), "attention_chunk_size", None)
        fits = chunk is None or longest <= chunk
        return fits and packing_is_isolated(model, rows, sharing=model.sharing)

    def set_gradient_checkpointing(self, model: Any, on: bool, offload: bool = False) -> None:
        """Recomputes each block in the backward pass. ``offload``: what is kept for it, block inputs or all
        activations, waits in the computer's memory."""
        from ._packed_attention import checkpoint_contexts

        model.offload = offload
        if on:
            model.predictor.activation_checkpointing_enable(
                activation_checkpointing_kwargs={"use_reentrant": False, "context_fn": checkpoint_contexts}
            )
        else:
            model.predictor.activation_checkpointing_disable()


def _states(model: Any, batch: Batch) -> Tensor:
    """Last hidden states of a batch, (1, T, D) of a pack or (B, T, D)."""
    runs = batch.get("boundaries"), batch.get("parents")
    return _run(model, batch["input_ids"], batch["position_ids"], *runs)


def _run(
    model: Any, tokens: Tensor, positions: Tensor, bounds: Tensor | None, parents: Tensor | None
) -> Tensor:
    from contextlib import nullcontext

    from ._packed_attention import packed

    pack = nullcontext() if bounds is None or parents is None else packed(bounds.tolist(), parents.tolist())
    with pack:
        states: Tensor = model.head.states(tokens.to(model.device), positions.to(model.device))
    return states


def _offloading(model: Any) -> Any:
    from contextlib import nullcontext

    if not getattr(model, "offload", False):
        return nullcontext()
    from torch.autograd.graph import save_on_cpu

    return save_on_cpu(pin_memory=model.device.type == "cuda")


def packing_is_isolated(model: Any, rows: Sequence[Any] | None = None, *, sharing: bool = False) -> bool:
    """Whether rows laid end to end see themselves only: tried on this model, with these rows of token ids (at
    least three; without, on made-up ones that begin alike). ``sharing``: as in ``TextModel``.

    The middle row is changed, and no other one's hidden states may move; and each row must come out as it
    does alone. What is allowed is rounding: mixtures of experts group tokens of all rows in one product, and
    LLM.int8 picks the columns that it computes in full by all of them. A leak is nearer to one.
    """
    import torch

    from ._packed_attention import NotPackableError
    from ._shared_beginnings import WORTH

    words = model.description.vocabulary
    if rows is None:
        drawn = torch.Generator().manual_seed(0)
        alike, *rest = (torch.randint(0, words, (size,), generator=drawn) for size in (WORTH, 7, 12, 9))
        rows = [torch.cat([alike, row]) for row in rest]
    whole = [torch.as_tensor(row).long() for row in rows]
    middle = len(whole) // 2
    changed = [row if i != middle else (row + 1) % words for i, row in enumerate(whole)]
    was_training = model.predictor.training
    model.predictor.eval()
    try:
        first, second = (_row_states(model, some, packing=True, sharing=sharing) for some in (whole, changed))
        alone = [_row_states(model, [row], packing=False)[0] for row in whole]
    except NotPackableError:
        return False
    finally:
        model.predictor.train(was_training)
    exact = model.dtype == torch.float32
    moved = [_apart(a, b) for i, (a, b) in enumerate(zip(first, second, strict=True)) if i != middle]
    apart = [_apart(a, b) for a, b in zip(first, alone, strict=True)]
    allowed = 0.1 if model.quantization == "8bit" else 1e-4 if exact else 1e-2
    return max(moved) <= allowed and max(apart) <= (max(allowed, 1e-3) if exact else 0.1)


def _apart(one: Tensor, other: Tensor) -> float:
    """Length of the difference, as a share of the length."""
    return float((one - other).float().norm() / other.float().norm())


def _row_states(model: Any, rows: Sequence[Tensor], *, packing: bool, sharing: bool = False) -> list[Tensor]:
    import torch

    from ._text_batch import lay

    laid = lay(rows, packing=packing, sharing=sharing)
    with torch.no_grad():
        states = _run(model, laid.tokens, laid.positions, laid.bounds, laid.parents).flatten(0, 1)
    return [states[places.to(states.device)] for places in laid.places]
