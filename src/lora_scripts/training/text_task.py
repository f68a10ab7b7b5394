"""Texts: rows lie tokenised in a memory-mapped table, files go to PEFT, vLLM and llama.cpp."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

from lora_scripts.adapters.attach import Adapter, attach, disabled
from lora_scripts.adapters.spec import AdapterSpec
from lora_scripts.config.schema import RunConfig
from lora_scripts.core.catalogue import render, say
from lora_scripts.core.control import Control
from lora_scripts.core.events import Emit, Noted
from lora_scripts.core.paths import RunFolder, cache_folder
from lora_scripts.core.problems import Problem
from lora_scripts.data.token_table import TokenRow, TokenTable
from lora_scripts.families._base import Batch, Draw, Item, TextDescription, TextFamily, TextModel
from lora_scripts.preflight.checks.texts import TextReport
from lora_scripts.preflight.prepare import Prepared

from .cache import StageCache
from .objective import Objective
from .optimizers import plus_groups
from .precision import Precision
from .state import TrainingState
from .task import Opened, PreviewMaker, Progress
from .text_exports import TextExports
from .text_objectives import Answers, DirectPreference, OddsRatio, by_sequence

if TYPE_CHECKING:
    import numpy as np

    from .session import Session

LARGE = 1_000_000_000
"""Parameters from which activations are recomputed by default: a card of 24 GB holds no others of such a
model."""
PROBE_ROWS, PROBE_TOKENS = 3, 64


class Texts:
    """Rows of the token table by position in the plan, with the base's opinion of pairs where needed."""

    def __init__(
        self, table: TokenTable, rows: Sequence[int] | np.ndarray, references: References | None = None
    ) -> None:
        self.table = table
        self.rows = rows
        self.references = references

    def __len__(self) -> int:
        return len(self.rows)

    def row(self, index: int) -> TokenRow:
        return self.table.row(int(self.rows[index]))

    def key(self, index: int) -> str:
        return self.row(index).key

    def item(self, index: int, draw: Draw | None = None) -> Item:
        row = self.row(index)
        item = item_of(row)
        return item if self.references is None else item | self.references.of(row.key)

    def name(self, index: int) -> str:
        return str(self.table.place(int(self.rows[index])))

    def sizes(self) -> np.ndarray:
        return self.table.lengths[self.rows]


def item_of(row: TokenRow) -> dict[str, Any]:
    """A row as tensors: ``ids`` and ``targets``, of a pair also those of the rejected answer."""
    import torch

    item = {"ids": torch.tensor(row.ids, dtype=torch.long), "targets": torch.tensor(row.targets)}
    if row.rejected_ids is not None:
        item["rejected_ids"] = torch.tensor(row.rejected_ids, dtype=torch.long)
        item["rejected_targets"] = torch.tensor(row.rejected_targets)
    return item


class References:
    """Log-probabilities that the bare base gives to each pair's answers: computed once, kept on disk."""

    def __init__(self, folder: StageCache, salt: str) -> None:
        self.cache = folder
        self.salt = salt

    def _key(self, key: str) -> str:
        return hashlib.sha256(f"{self.salt}/{key}".encode()).hexdigest()

    def of(self, key: str) -> dict[str, Any]:
        return self.cache.get(self._key(key))

    def fill(
        self, examples: Sequence[Texts], score: Callable[[Item], dict[str, Any]], progress: Progress
    ) -> None:
        """One pair at a time: what lies beside it in a batch would show in the last bits."""
        missing = {
            key: (texts, index)
            for texts in examples
            for index in range(len(texts))
            if self._key(key := texts.key(index)) not in self.cache
        }
        try:
            for done, (key, (texts, index)) in enumerate(missing.items(), 1):
                self.cache.add(self._key(key), score(item_of(texts.row(index))))
                progress("references", done, len(missing))
        finally:
            self.cache.flush()


class TextTask:
    def resolve(self, prepared: Prepared) -> dict[str, Any]:
        config, report = prepared.config, cast(TextReport, prepared.dataset)
        description = cast(TextDescription, prepared.description)
        update: dict[str, Any] = {"objective": report.objective, "max_length": report.max_length}
        if config.gradient_checkpointing == "auto":
            update["gradient_checkpointing"] = sum(description.parameters.values()) >= LARGE
        return update

    def open(self, prepared: Prepared, config: RunConfig, precision: Precision, progress: Progress) -> Opened:
        family, report = cast(TextFamily, prepared.family), cast(TextReport, prepared.dataset)
        assert prepared.source is not None
        progress("base", 0, 1)
        model = family.load(
            prepared.source,
            device=precision.device,
            dtype=precision.dtype,
            quantization=config.quantization,
            packing=config.packing,
        )
        progress("base", 1, 1)
        if report.chat_template is not None:
            model.tokenizer.chat_template = report.chat_template
        notes = _isolation(family, model, report)
        targets = config.target_modules
        spec = AdapterSpec(
            rank=config.lora_rank,
            alpha=config.alpha,
            dropout=config.lora_dropout,
            targets=tuple(targets) if isinstance(targets, list) else targets,
            rslora=config.use_rslora,
            dora=config.use_dora,
            init=config.init_lora_weights,
        )
        adapter = attach(model, spec, seed=config.seed, lean=True)
        family.set_gradient_checkpointing(
            model, config.gradient_checkpointing is True, offload=config.activation_offload
        )
        references = None
        if config.objective == "dpo":
            references = _references(config, prepared, family, model, adapter, precision, progress)
        held_out = Texts(report.table, report.validation, references)
        return Opened(
            model=model,
            adapter=adapter,
            examples=Texts(report.table, report.train, references),
            objective=_objective(config, family, model),
            groups=plus_groups(
                {"model": (adapter.parameters, config.learning_rate)}, config.loraplus_lr_ratio
            ),
            held_out=_HeldOut(family, model, held_out, config.batch_size) if len(held_out) else None,
            notes=notes,
        )

    def previews(self, session: Session, folder: RunFolder, control: Control, emit: Emit) -> PreviewMaker:
        from .callbacks.sentences import Sentences

        return Sentences(session, folder, control, emit)

    def exports(self, session: Session, state: TrainingState, folder: RunFolder) -> TextExports:
        return TextExports(session, state, folder)


TASK = TextTask()


class _HeldOut:
    """The held-out rows in their order, ``size`` at a time."""

    def __init__(self, family: TextFamily, model: TextModel, texts: Texts, size: int) -> None:
        self.family = family
        self.model = model
        self.texts = texts
        self.size = size

    def __call__(self) -> Iterator[Batch]:
        for start in range(0, len(self.texts), self.size):
            items = [self.texts.item(i) for i in range(start, min(start + self.size, len(self.texts)))]
            yield self.family.collate(self.model, items, [Draw(0)] * len(items))


def _objective(config: RunConfig, family: TextFamily, model: TextModel) -> Objective:
    if config.objective == "dpo":
        return DirectPreference(family, model, config.dpo_beta)
    if config.objective == "orpo":
        return OddsRatio(family, model, config.orpo_beta)
    return Answers(family, model)


def _isolation(family: TextFamily, model: TextModel, report: TextReport) -> list[Noted]:
    """Rows that are laid end to end must not see each other: tried out on the user's own, on this model."""
    if not report.packing:
        return []
    count, table = len(report.train), report.table
    numbers = [int(report.train[n % count]) for n in range(PROBE_ROWS)]
    rows = [item_of(table.row(number))["ids"][:PROBE_TOKENS] for number in numbers]
    longest = max(int(table.lengths[part].max()) for part in (report.train, report.validation) if len(part))
    for sharing in (True, False):
        model.sharing = sharing and model.sharing and report.sharing
        if model.packing and family.packing_is_isolated(model, rows, longest):
            return [Noted(code="", text=say("run.packing_isolated", rows=min(count, PROBE_ROWS)))]
    model.packing = False
    problem = Problem("LS5008", {"family": model.description.model_type}, severity="warning")
    return [Noted(code=problem.code, text=render(problem))]


def _references(
    config: RunConfig,
    prepared: Prepared,
    family: TextFamily,
    model: TextModel,
    adapter: Adapter,
    precision: Precision,
    progress: Progress,
) -> References:
    import torch

    report = cast(TextReport, prepared.dataset)
    assert prepared.description is not None
    salt = f"{prepared.description.fingerprint['sha256']}/{precision.mode}/{config.quantization}"
    references = References(StageCache(cache_folder(config.cache_dir) / "references"), salt)

    def score(item: Item) -> dict[str, Any]:
        batch = family.collate(model, [item], [Draw(0)])
        with torch.no_grad(), precision.autocast(), disabled(adapter):
            chosen, rejected = by_sequence(family.predict(model, batch), batch)
        return {"references": torch.cat([chosen, rejected]).float().cpu()}

    references.fill(
        [Texts(report.table, rows) for rows in (report.train, report.validation)], score, progress
    )
    return references
