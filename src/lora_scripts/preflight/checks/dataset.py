"""From a config to pictures ready to be learnt and a plan in numbers, or everything that is wrong."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...config.schema import DEFAULTS, RunConfig
from ...core.catalogue import say
from ...core.problems import Location, Problem
from ...data.columns import Known
from ...data.fingerprint import fingerprint
from ...data.images import Progress, examine
from ...data.manifest import read_pictures
from ...data.masks import find_masks
from ...data.plan import Plan
from ...data.samples import Samples, samples_of
from ...data.split import held_out
from ...data.text_files import SHOWN, listing
from .counted_twice import counted_twice
from .picture_sets import PictureSet, held_out_set, picture_sets

FEW = 10
ENLARGED = 2.0
"""Linear enlargement from which a picture is too small to show what it is to teach."""
CROPPED = 0.25
"""Share of a picture's area from which a crop is worth a warning."""


@dataclass(frozen=True)
class DatasetReport:
    """What a run learns from. ``train``: each picture as often as it comes in an epoch. ``plan`` counts
    positions in it; None without any. ``used``: different pictures to train on, ``regularization`` of them to
    keep what the base knows. ``sizes``: training sizes in pixels."""

    train: Samples = field(default_factory=Samples)
    validation: Samples = field(default_factory=Samples)
    plan: Plan | None = None
    source: str = ""
    validation_source: str | None = None
    named: int = 0
    left_out: int = 0
    epochs: int | None = None
    max_steps: int | None = None
    buckets: dict[str, int] = field(default_factory=dict)
    enlarged: int = 0
    used: int = 0
    regularization: int = 0
    sizes: tuple[int, ...] = ()

    @property
    def total_steps(self) -> int:
        """Windows in the whole run: ``max_steps``, else epochs times windows per epoch."""
        if self.plan is None:
            return 0
        return (
            self.max_steps
            or (self.epochs or DEFAULTS["image-generation"]["epochs"]) * self.plan.windows_per_epoch
        )

    @property
    def forms(self) -> Samples:
        """What the stages compute from: each picture in each size once, held-out ones included."""
        return Samples.joined([self.train.once(), self.validation])

    def _training(self) -> str:
        if len(self.train) == self.used:
            return say("data.plan.training", count=self.used)
        return say("data.plan.training_repeated", count=self.used, times=len(self.train))

    def _more(self) -> list[str]:
        """What is said only where it is asked for."""
        lines = []
        if len(self.sizes) > 1:
            lines.append(say("data.plan.sizes", sizes=", ".join(map(str, self.sizes))))
        handlings = self.train.handlings
        if self.regularization:
            weight = next(each.weight for each in handlings if each.regularization)
            lines.append(say("data.plan.regularization", count=self.regularization, weight=f"{weight:g}"))
        firsts = self.train.once()
        if masked := int(((firsts.masks != b"") & (firsts.sizes == 0)).sum()):
            lines.append(say("data.plan.masked", count=masked))
        if any(each.flips or each.wording.changes("") for each in handlings):
            captions = Known(
                caption for written, how in firsts.captions() for caption in how.captions(written)
            )
            lines.append(say("data.plan.forms", captions=len(captions)))
        return lines

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
            self._training() + " " + validation,
            *self._more(),
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

    ``resolution`` in pixels (of a base, where the config names none) and ``size_multiple`` (what a side must
    be a multiple of) come from the family. The report is whole where no problem is an error; ``progress``
    gets (done, total) pictures.
    """
    held_folder = Path(config.validation.data_dir).expanduser() if config.validation.data_dir else None
    sizes = _sizes(config, resolution)
    reading = _Reading(config, sizes, size_multiple, progress)
    sets = picture_sets(config)
    exclude = [Path(config.output_dir).expanduser(), *([held_folder] if held_folder else [])]
    exclude += [Path(config.loss_mask).expanduser()] if config.loss_mask not in ("none", "alpha") else []
    read = [reading.read(each, exclude) for each in sets]
    samples = Samples.joined(read)
    reading.problems += counted_twice(sets, read)
    validation_source = None
    if held_folder is not None:
        other = _Reading(config, sizes, size_multiple, None)
        validation = other.read(held_out_set(config, held_folder), [])
        validation_source = other.sources[0]
        reading.problems += other.problems + _leaks(samples, validation, held_folder)
    else:
        held = _held(samples, config)
        validation, samples = samples[held], samples[~held]
    first = samples[samples.sizes == 0]
    train = samples.for_an_epoch()
    problems = reading.problems + _advice(first, sets[0].folder, sizes[0])
    if config.loss_mask != "none" and first and not (samples.masks != b"").any():
        problems.append(Problem("LS2423", {"count": len(first)}, severity="warning"))
    if config.random_crop and first:
        told = {"window": config.window_size, "spare": round(first.spare.sum() / len(first))}
        problems.append(Problem("LS2412", told, severity="note"))
    shapes, groups = train.buckets()
    accumulation = config.gradient_accumulation_steps
    report = DatasetReport(
        train=train,
        validation=validation.held_out(),
        plan=Plan(groups, config.batch_size, accumulation, config.seed) if train else None,
        source=", ".join(reading.sources),
        validation_source=validation_source,
        named=reading.named,
        left_out=reading.named - reading.usable,
        epochs=config.epochs,
        max_steps=config.max_steps,
        buckets={str(shape): int(n) for shape, n in zip(shapes, np.bincount(groups), strict=True)},
        enlarged=int((first.enlarged > 1).sum()),
        used=len(first),
        regularization=int(first.regularization.sum()),
        sizes=sizes,
    )
    return report, problems


def _held(samples: Samples, config: RunConfig) -> np.ndarray:
    """Which are held out, (n,) bool: in all their sizes, and wherever else the same file is learnt from."""
    learnt = samples[(samples.sizes == 0) & ~samples.regularization]
    chosen = learnt[held_out(learnt.hashes, config.validation.split)]
    files = Known(map(str, chosen.paths()))
    held = np.isin(samples.hashes, chosen.hashes)
    held[held] = [str(path) in files for path in samples[held].paths()]
    return held


def _sizes(config: RunConfig, resolution: int) -> tuple[int, ...]:
    if isinstance(config.resolution, list):
        return tuple(dict.fromkeys(config.resolution))
    return (config.resolution if isinstance(config.resolution, int) else resolution,)


@dataclass
class _Reading:
    """Data sets read one after another, and what they came to."""

    config: RunConfig
    sizes: tuple[int, ...]
    multiple: int
    progress: Progress | None
    problems: list[Problem] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    named: int = 0
    usable: int = 0

    def read(self, source: PictureSet, exclude: list[Path]) -> Samples:
        """The set's pictures, once for each size."""
        config = self.config
        manifest = read_pictures(source.folder, source.metadata, strict=config.strict, exclude=exclude)
        pictures, bad = examine(
            manifest.examples,
            background=config.background,
            on_bad=config.on_bad_image,
            on_animation=config.on_animation,
            progress=self.progress,
        )
        masks, found = find_masks(pictures, config.loss_mask) if config.loss_mask != "none" else ({}, [])
        self.problems += [*manifest.problems, *bad, *found]
        self.sources.append(manifest.source)
        self.named += len(manifest.examples)
        self.usable += len(pictures)
        return Samples.joined(
            samples_of(
                pictures,
                resolution=resolution,
                step=self.multiple,
                handling=source.handling,
                masks=masks,
                repeats=source.repeats,
                size=number,
            )
            for number, resolution in enumerate(self.sizes)
        )


def _leaks(samples: Samples, validation: Samples, folder: Path) -> list[Problem]:
    other = validation[validation.sizes == 0]
    both = other[np.isin(other.hashes, samples.hashes)]
    params = {"count": len(both), "names": _names(both)}
    return [Problem("LS2071", params, Location(str(folder)), "warning")] if both else []


def _names(samples: Samples) -> str:
    return listing(list(samples[: SHOWN + 1].names()))


def _advice(train: Samples, folder: Path, resolution: int) -> list[Problem]:
    place = Location(str(folder))
    found: list[Problem] = []
    if small := train[train.enlarged >= ENLARGED]:
        params = {"count": len(small), "names": _names(small), "resolution": resolution}
        found.append(Problem("LS2064", params, place, "warning"))
    if cut := train[train.lost > CROPPED]:
        params = {"count": len(cut), "names": _names(cut), "share": round(CROPPED * 100)}
        found.append(Problem("LS2065", params, place, "warning"))
    taught = len(train) - int(train.regularization.sum())
    if 0 < taught < FEW:
        found.append(Problem("LS2070", {"count": taught}, place, "warning"))
    return found
