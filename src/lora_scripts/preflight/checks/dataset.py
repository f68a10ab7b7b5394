"""From a config to pictures ready to be learnt and a plan in numbers, or everything that is wrong."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...config.schema import DEFAULTS, RunConfig
from ...core.catalogue import say
from ...core.problems import Location, Problem
from ...data.fingerprint import fingerprint
from ...data.images import Progress, examine
from ...data.manifest import Manifest, read_pictures
from ...data.plan import Plan
from ...data.sample import Sample, samples_of
from ...data.split import held_out
from ...data.text_files import listing

FEW = 10
ENLARGED = 2.0
"""Linear enlargement from which a picture is too small to show what it is to teach."""
CROPPED = 0.25
"""Share of a picture's area from which a crop is worth a warning."""


@dataclass(frozen=True)
class DatasetReport:
    """What a run learns from. ``plan`` counts positions in ``train``; None without any."""

    train: tuple[Sample, ...] = ()
    validation: tuple[Sample, ...] = ()
    plan: Plan | None = None
    source: str = ""
    validation_source: str | None = None
    named: int = 0
    left_out: int = 0
    epochs: int | None = None
    max_steps: int | None = None
    buckets: dict[str, int] = field(default_factory=dict)
    enlarged: int = 0

    @property
    def total_steps(self) -> int:
        """Windows in the whole run: ``max_steps``, else epochs times windows per epoch."""
        if self.plan is None:
            return 0
        return (
            self.max_steps
            or (self.epochs or DEFAULTS["image-generation"]["epochs"]) * self.plan.windows_per_epoch
        )

    def fingerprint(self) -> dict[str, Any]:
        return fingerprint(self.train, self.validation)

    def lines(self) -> list[str]:
        """The plan in numbers, in the user's language."""
        if self.plan is None:
            return [say("data.plan.nothing", source=self.source)]
        plan, count = self.plan, len(self.train)
        held = len(self.validation)
        validation = (
            say("data.plan.validation_folder", count=held, source=self.validation_source)
            if self.validation_source
            else say("data.plan.held_out", count=held)
        )
        lines = [
            say("data.plan.pictures", count=self.named, source=self.source, left_out=self.left_out),
            say("data.plan.training", count=count) + " " + validation,
            say("data.plan.buckets", count=len(self.buckets)),
            *(
                "  " + say("data.plan.bucket", shape=shape, count=number)
                for shape, number in sorted(self.buckets.items(), key=lambda item: (-item[1], item[0]))
            ),
        ]
        if self.enlarged:
            lines.append(say("data.plan.enlarged", count=self.enlarged))
        arithmetic: dict[str, Any] = {
            "count": count,
            "batch": plan.batch_size,
            "accumulation": plan.accumulation,
            "window": plan.window_size,
            "windows": plan.windows_per_epoch,
            "epochs": self.epochs or DEFAULTS["image-generation"]["epochs"],
            "total": self.total_steps,
            "rounds": f"{self.total_steps / plan.windows_per_epoch:.1f}",
            "mean": f"{plan.mean_micro_batch():.1f}",
        }
        by = "max_steps" if self.max_steps else "epochs"
        return [
            *lines,
            say("data.plan.windows", **arithmetic),
            say(f"data.plan.steps_by_{by}", **arithmetic),
            say("data.plan.micro_batches", **arithmetic),
        ]


def check_pictures(
    config: RunConfig, resolution: int, size_multiple: int, progress: Progress | None = None
) -> tuple[DatasetReport, list[Problem]]:
    """Reads the captions, decodes every picture once, places, splits and plans; writes nothing.

    ``resolution`` in pixels and ``size_multiple`` (what a side must be a multiple of) come from the family.
    The report is whole where no problem is an error; ``progress`` gets (done, total) pictures.
    """
    folder = Path(config.train_data_dir).expanduser()
    held_folder = Path(config.validation.data_dir).expanduser() if config.validation.data_dir else None
    metadata = Path(config.metadata_path).expanduser() if config.metadata_path else None
    exclude = [Path(config.output_dir).expanduser(), *([held_folder] if held_folder else [])]

    manifest, train, problems = _ready(config, folder, metadata, exclude, resolution, size_multiple, progress)
    usable, validation_source = len(train), None
    if held_folder is not None:
        other, validation, found = _ready(config, held_folder, None, [], resolution, size_multiple, None)
        validation_source = other.source
        problems += found + _leaks(train, validation, held_folder)
    else:
        positions = set(held_out([sample.picture.sha256 for sample in train], config.validation.split))
        validation = [sample for index, sample in enumerate(train) if index in positions]
        train = [sample for index, sample in enumerate(train) if index not in positions]
    problems += _advice(train, folder, resolution)
    shapes = [sample.placement.bucket for sample in train]
    accumulation = config.gradient_accumulation_steps
    report = DatasetReport(
        train=tuple(train),
        validation=tuple(validation),
        plan=Plan(shapes, config.batch_size, accumulation, config.seed) if train else None,
        source=manifest.source,
        validation_source=validation_source,
        named=len(manifest.examples),
        left_out=len(manifest.examples) - usable,
        epochs=config.epochs,
        max_steps=config.max_steps,
        buckets={str(shape): number for shape, number in Counter(shapes).items()},
        enlarged=sum(_enlargement(sample) > 1 for sample in train),
    )
    return report, problems


def _ready(
    config: RunConfig,
    folder: Path,
    metadata: Path | None,
    exclude: list[Path],
    resolution: int,
    size_multiple: int,
    progress: Progress | None,
) -> tuple[Manifest, list[Sample], list[Problem]]:
    manifest = read_pictures(
        folder, metadata, strict=config.strict, trigger_word=config.trigger_word, exclude=exclude
    )
    pictures, bad = examine(
        manifest.examples, background=config.background, on_bad=config.on_bad_image, progress=progress
    )
    return manifest, samples_of(pictures, resolution=resolution, step=size_multiple), manifest.problems + bad


def _enlargement(sample: Sample) -> float:
    return sample.placement.resize[0] / sample.picture.width


def _leaks(train: list[Sample], validation: list[Sample], folder: Path) -> list[Problem]:
    trained = {sample.picture.sha256 for sample in train}
    both = [sample.name for sample in validation if sample.picture.sha256 in trained]
    params = {"count": len(both), "names": listing(both)}
    return [Problem("LS2071", params, Location(str(folder)), "warning")] if both else []


def _advice(train: list[Sample], folder: Path, resolution: int) -> list[Problem]:
    place = Location(str(folder))
    found: list[Problem] = []
    small = [sample.name for sample in train if _enlargement(sample) >= ENLARGED]
    if small:
        params = {"count": len(small), "names": listing(small), "resolution": resolution}
        found.append(Problem("LS2064", params, place, "warning"))
    cut = [sample.name for sample in train if sample.placement.lost > CROPPED]
    if cut:
        params = {"count": len(cut), "names": listing(cut), "share": round(CROPPED * 100)}
        found.append(Problem("LS2065", params, place, "warning"))
    if 0 < len(train) < FEW:
        found.append(Problem("LS2070", {"count": len(train)}, place, "warning"))
    return found
