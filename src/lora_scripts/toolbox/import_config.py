"""Settings of sd-scripts and kohya_ss as a configuration of ours, and what it could not take along."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_scripts.config.load import dump_yaml, load_config
from lora_scripts.config.schema import RunConfig
from lora_scripts.core.catalogue import message, say
from lora_scripts.core.problems import Problem, ProblemsError

from . import import_flow, import_keys
from .import_data import from_datasets, from_folders
from .import_notes import Given, Note
from .import_read import Settings, read_settings
from .import_silent import drop_silent

FALLBACKS = {
    "resolution": "resolution", "max_resolution": "resolution", "train_batch_size": "batch_size",
    "enable_bucket": "enable_bucket", "caption_extension": "caption_extension", "flip_aug": "flip_aug",
    "random_crop": "random_crop", "shuffle_caption": "shuffle_caption", "keep_tokens": "keep_tokens",
    "caption_prefix": "caption_prefix", "caption_suffix": "caption_suffix", "alpha_mask": "alpha_mask",
    "caption_dropout_rate": "caption_dropout_rate", "color_aug": "color_aug",
}  # fmt: skip
"""Training settings that hold for data sets which say nothing else -> what data sets call them."""


@dataclass(frozen=True)
class Imported:
    """``yaml``: the configuration, which ``load_config`` takes. ``notes``: everything that means something
    else than before, then everything that has no counterpart here."""

    yaml: str
    values: dict[str, Any]
    notes: tuple[Note, ...]

    @property
    def text(self) -> str:
        """The configuration with the notes in front of it, as comments."""
        lines = [say("import.header"), *(note.text for note in self.notes)]
        return "".join(f"# {line}\n" for line in lines) + self.yaml


def import_config(paths: Sequence[Path]) -> Imported:
    """Reads one run's settings, which may be spread over files (training and data sets).

    Raises ProblemsError: LS4457 no such file, LS4458 settings of no known kind, LS4459 not to be read, LS4460
    values that no configuration can hold.
    """
    settings = Settings()
    for path in paths:
        settings.join(read_settings(path))
    given = Given(dict(settings.values))
    values = _values(settings, given, paths[0])
    notes = sorted(_once(given.notes), key=lambda note: note.kind == "lost")
    order = [name for name in RunConfig.model_fields if name in values]
    yaml = dump_yaml({name: values[name] for name in order})
    _check(yaml, paths[0])
    return Imported(yaml, {name: values[name] for name in order}, tuple(notes))


def _values(settings: Settings, given: Given, path: Path) -> dict[str, Any]:
    values: dict[str, Any] = {}
    if settings.datasets:
        fallback = {ours: given.values.pop(name) for name, ours in FALLBACKS.items() if name in given.values}
        values |= from_datasets(fallback | settings.general, settings.datasets, given)
        for name in ("train_data_dir", "reg_data_dir"):
            given.values.pop(name, None)
    else:
        values |= from_folders(given)
    training = bool(settings.values)
    values |= import_keys.places(given, path.stem)
    if training:
        flow = import_flow.flow(given, settings.gui)
        values |= import_keys.batch(given, values.get("batch_size"))
        values |= import_keys.network(given)
        values |= import_keys.rates(given, settings.gui)
        values |= import_keys.length(given, settings.gui)
        values |= import_keys.rest(given)
        values |= import_keys.preview(given, path.parent) | import_flow.trackers(given)
        if flow:
            parts = {**values.get("components", {}), **flow.pop("components", {})}
            values |= {**flow, **({"components": parts} if parts else {})}
            values.pop("text_encoder_learning_rate", None)
    if "train_data_dir" not in values and "datasets" not in values:
        values["train_data_dir"] = "./data/pictures"
        given.change("import.unsaid", name="train_data_dir", value=values["train_data_dir"])
    drop_silent(given, settings.gui)
    given.lose_rest(())
    return {name: _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Any:
    """Whole numbers without a point."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return int(value)
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


def _once(notes: Sequence[Note]) -> list[Note]:
    found: dict[tuple[str, str], Note] = {}
    for note in notes:
        found.setdefault((note.key, repr(sorted(note.params.items()))), note)
    return list(found.values())


def _check(yaml: str, path: Path) -> None:
    """Through the loader that every run goes through. ProblemsError LS4460."""
    with tempfile.TemporaryDirectory(prefix="lora-scripts-") as folder:
        place = Path(folder) / "config.yaml"
        place.write_text(yaml, encoding="utf-8")
        try:
            load_config(place)
        except ProblemsError as error:
            told = "; ".join(message(problem) for problem in error.problems[:4])
            raise ProblemsError(Problem("LS4460", {"path": str(path), "what": told})) from error
