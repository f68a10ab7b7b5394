"""The LoRA files that a picture run leaves: one at each save, the best, and the last one for the WebUI."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from lora_scripts.core.catalogue import say
from lora_scripts.core.events import Emit, Exported
from lora_scripts.core.files import copy_atomic
from lora_scripts.core.paths import RunFolder
from lora_scripts.data.fingerprint import summary
from lora_scripts.export.card import write_card
from lora_scripts.export.facts import ExportFacts, tag_frequency
from lora_scripts.export.kohya import export_lora
from lora_scripts.export.readback import read_back
from lora_scripts.preflight.checks.dataset import DatasetReport

from . import records
from .state import TrainingState

if TYPE_CHECKING:
    from .session import Session


class ImageExports:
    """``<name>-step000100.safetensors``, ``<name>-best.safetensors`` and, at the end, the two named files."""

    def __init__(self, session: Session, state: TrainingState, folder: RunFolder) -> None:
        self.session = session
        self.state = state
        self.folder = folder

    def facts(self) -> ExportFacts:
        """What a file written now says about itself."""
        session, state = self.session, self.state
        config, dataset = session.config, cast(DatasetReport, session.dataset)
        plan = session.batches.plan
        side = config.side
        words = (config.trigger_word, *(entry.trigger_word for entry in config.datasets))
        return ExportFacts(
            name=config.name,
            config=records.experiment_values(config),
            data=summary(session.data),
            versions=records.versions(),
            trigger_words=tuple(dict.fromkeys(word for word in words if word)),
            tag_frequency={
                Path(config.train_data_dir).name: tag_frequency(
                    handling.wording.plain(written) for written, handling in dataset.train.captions()
                )
            },
            step=state.step,
            total_steps=session.job.total_steps,
            epoch=math.ceil(state.step / plan.windows_per_epoch),
            total_epochs=math.ceil(session.job.total_steps / plan.windows_per_epoch),
            pictures=len(dataset.train),
            batches_per_epoch=plan.windows_per_epoch,
            resolution=(side, side),
            buckets=dataset.buckets,
            mixed_precision=config.mixed_precision,
        )

    def has(self, step: int) -> bool:
        return self.folder.export(step).exists()

    def _export(self, path: Path) -> Path:
        with self.session.lend():
            export_lora(path, self.session.model, self.session.adapter, self.facts())
        return path

    def write(self, step: int) -> Path:
        return self._export(self.folder.export(step))

    def keep_best(self, step: int) -> None:
        copy_atomic(self.folder.export(step), self.folder.best_export)

    def prune(self, keep: int) -> None:
        for old in self.folder.step_exports()[: -keep or None]:
            old.unlink(missing_ok=True)

    def finish(self, emit: Emit) -> dict[str, Any]:
        """The final files, read back through Diffusers."""
        session, folder = self.session, self.folder
        self._export(folder.weights)
        with session.lend():
            proof = read_back(folder.weights, session.model, session.adapter)
        copy_atomic(folder.weights, folder.export())
        write_card(folder.card, session.model, session.adapter, self.facts())
        files = [folder.weights.name, folder.export().name, folder.card.name]
        layers = sum(proof.layers.values())
        emit(Exported(files=files, readback_layers=layers, readback_difference=proof.output))
        return {
            "weights": folder.weights.name,
            "named": folder.export().name,
            "best": folder.best_export.name if folder.best_export.exists() else None,
            "readback": {"layers": proof.layers, "weights": proof.weights, "output": proof.output},
        }

    def done_lines(self) -> list[str]:
        folder, name = self.folder, self.session.config.name
        lines = [say("run.finished", weights=folder.weights, named=folder.export(), name=name)]
        if self.session.model.description.source.builtin:
            lines.append(say("run.demo_base"))
        return lines
