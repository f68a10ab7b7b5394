"""What a run leaves: LoRA files for clients, proof that they load, a model card, a result."""

from __future__ import annotations

import math
from pathlib import Path

from lora_scripts.core.events import Emit, Exported
from lora_scripts.core.files import write_atomic
from lora_scripts.core.paths import RunFolder
from lora_scripts.data.fingerprint import summary
from lora_scripts.export.card import write_card
from lora_scripts.export.facts import ExportFacts, tag_frequency
from lora_scripts.export.kohya import export_lora
from lora_scripts.export.readback import read_back

from . import records
from .session import Session
from .state import TrainingState


def export_facts(session: Session, state: TrainingState) -> ExportFacts:
    """What a file written now says about itself."""
    config, dataset, plan = session.config, session.dataset, session.dataset.plan
    assert plan is not None
    side = int(config.resolution)
    return ExportFacts(
        name=config.name,
        config=records.experiment_values(config),
        data=summary(session.data),
        versions=records.versions(),
        trigger_words=(config.trigger_word,) if config.trigger_word else (),
        tag_frequency={
            Path(config.train_data_dir).name: tag_frequency(sample.caption for sample in dataset.train)
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


def export_adapter(session: Session, state: TrainingState, path: Path) -> None:
    export_lora(path, session.model, session.adapter, export_facts(session, state))


def finish(session: Session, state: TrainingState, folder: RunFolder, emit: Emit) -> None:
    """Writes the final files, reads them back through Diffusers, then says so in ``result.json``.

    The result comes last: a run that is killed before it is not finished, and goes on from its checkpoint.
    """
    export_adapter(session, state, folder.weights)
    proof = read_back(folder.weights, session.model, session.adapter)
    write_atomic(folder.export(), folder.weights.read_bytes())
    write_card(folder.card, session.model, session.adapter, export_facts(session, state))
    files = [folder.weights.name, folder.export().name, folder.card.name]
    layers = sum(proof.layers.values())
    emit(Exported(files=files, readback_layers=layers, readback_difference=proof.output))
    records.write_result(
        folder,
        state,
        "finished",
        weights=folder.weights.name,
        named=folder.export().name,
        best=folder.best_export.name if folder.best_export.exists() else None,
        readback={"layers": proof.layers, "weights": proof.weights, "output": proof.output},
    )
