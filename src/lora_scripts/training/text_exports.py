"""The LoRA folders that a text run leaves: one at each save, the best one, and ``output_dir`` itself."""

from __future__ import annotations

import math
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lora_scripts.core.catalogue import say
from lora_scripts.core.events import Emit, Exported
from lora_scripts.core.files import copy_atomic
from lora_scripts.core.paths import ADAPTER_CONFIG, ADAPTER_WEIGHTS, RunFolder
from lora_scripts.export.peft_folder import write_peft
from lora_scripts.export.text_facts import TextFacts
from lora_scripts.export.text_proof import read_back_peft
from lora_scripts.families._base import TextModel
from lora_scripts.preflight.checks.texts import TextReport

from . import records
from .state import TrainingState

if TYPE_CHECKING:
    from .session import Session


class TextExports:
    """PEFT adapters: ``<name>-step000100/``, ``<name>-best/`` and, at the end, the run's own folder."""

    def __init__(self, session: Session, state: TrainingState, folder: RunFolder) -> None:
        self.session = session
        self.state = state
        self.folder = folder

    def facts(self) -> TextFacts:
        """What a file written now says about itself."""
        session, state = self.session, self.state
        report = cast(TextReport, session.dataset)
        plan = session.batches.plan
        return TextFacts(
            name=session.config.name,
            config=records.experiment_values(session.config),
            data={key: session.data[key] for key in ("sha256", "train", "validation")},
            versions=records.versions(),
            step=state.step,
            total_steps=session.job.total_steps,
            epochs=math.ceil(state.step / plan.windows_per_epoch),
            rows=len(report.train),
            tokens=int(report.table.loss_tokens[report.train].sum()),
            objective=session.config.objective,
            before=_figures(state.loss_before, state.metrics_before),
            after=_figures(state.loss_after, state.metrics_after),
        )

    def _export(self, path: Path) -> None:
        with self.session.lend():
            write_peft(path, cast(TextModel, self.session.model), self.session.adapter, self.facts())

    def has(self, step: int) -> bool:
        return (self.folder.adapter(step) / ADAPTER_WEIGHTS).exists()  # written last

    def write(self, step: int) -> Path:
        path = self.folder.adapter(step)
        self._export(path)
        return path

    def keep_best(self, step: int) -> None:
        """File by file, so that there is one at any moment: its files differ in weights and card only."""
        files = sorted(path for path in self.folder.adapter(step).iterdir() if path.is_file())
        for path in sorted(files, key=lambda path: path.name == ADAPTER_WEIGHTS):
            copy_atomic(path, self.folder.best_adapter / path.name)

    def prune(self, keep: int) -> None:
        for old in self.folder.step_adapters()[: -keep or None]:
            shutil.rmtree(old, ignore_errors=True)

    def finish(self, emit: Emit) -> dict[str, Any]:
        """The final folder, loaded back through PEFT."""
        session, root = self.session, self.folder.root
        self._export(root)
        with session.lend():
            proof = read_back_peft(root, cast(TextModel, session.model), session.adapter)
        files = [ADAPTER_WEIGHTS, ADAPTER_CONFIG, self.folder.card.name]
        largest = proof.difference.largest
        emit(Exported(files=files, readback_layers=proof.layers, readback_difference=largest))
        return {
            "weights": ADAPTER_WEIGHTS,
            "best": self.folder.best_adapter.name if self.folder.best_adapter.exists() else None,
            "readback": {"layers": proof.layers, **asdict(proof.difference)},
        }

    def done_lines(self) -> list[str]:
        return [say("run.finished_text", folder=self.folder.root)]


def _figures(loss: float | None, metrics: dict[str, float]) -> dict[str, float]:
    return {} if loss is None else {"loss": loss, **metrics}
