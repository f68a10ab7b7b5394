"""Running a family's stages: what frozen modules say about each example is computed once and cached."""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_scripts.data.columns import Known
from lora_scripts.data.sample import Sample

from .cache import StageCache

if TYPE_CHECKING:
    import torch

    from lora_scripts.families._base import Stage

    from .task import Progress


class CachedStages:
    """The values of all stages for any sample, each from its own cache folder below ``cache_dir``."""

    def __init__(self, stages: Sequence[Stage], cache_dir: Path) -> None:
        self.stages = list(stages)
        self.caches = {stage.name: StageCache(cache_dir / stage.name) for stage in self.stages}

    def fill(self, samples: Sequence[Sample], progress: Progress) -> None:
        """Computes what is missing of every form that a sample may be learnt in; each distinct content once.

        Forms are made one after another and never held together: memory grows with the number of keys only.
        """
        for stage in self.stages:
            if stage.cached:
                cache = self.caches[stage.name]
                try:
                    _fill(stage, cache, samples, progress)
                finally:
                    cache.flush()

    def item(self, sample: Sample) -> dict[str, torch.Tensor]:
        """All tensors of one form of a sample, by name."""
        item: dict[str, Any] = {}
        for stage in self.stages:
            if stage.cached:
                item |= self.caches[stage.name].get(stage.key(sample))
            else:
                item |= stage.run([sample])[0]
        return item


def _forms(stage: Stage, sample: Sample) -> Iterator[tuple[str, Sample]]:
    """Key and sample of every form; several share a key where they do not differ for this stage."""
    for form in sample.views():
        yield stage.key(form), form


def _fill(stage: Stage, cache: StageCache, samples: Sequence[Sample], progress: Progress) -> None:
    missing, places = _missing(stage, cache, samples)
    total, done = len(missing), 0
    begun = bytearray(total)
    waiting: dict[Hashable, list[tuple[str, Sample]]] = defaultdict(list)
    for key, form in (pair for place in places for pair in _forms(stage, samples[place])):
        number = missing.get(key)
        if number is None or begun[number]:
            continue
        begun[number] = True
        group = stage.group(form)
        waiting[group].append((key, form))
        if len(waiting[group]) == stage.batch_size:
            done += _compute(stage, waiting.pop(group), cache)
            progress(stage.name, done, total)
    for rest in waiting.values():
        done += _compute(stage, rest, cache)
    if waiting:
        progress(stage.name, total, total)


def _missing(stage: Stage, cache: StageCache, samples: Sequence[Sample]) -> tuple[Known, array[int]]:
    """Keys that the cache lacks, and positions of the samples that have them."""
    missing, places = Known(), array("i")
    for place, sample in enumerate(samples):
        before = len(missing)
        for key, _ in _forms(stage, sample):
            if key not in cache:
                missing.add(key)
        if len(missing) > before:
            places.append(place)
    return missing, places


def _compute(stage: Stage, part: list[tuple[str, Sample]], cache: StageCache) -> int:
    """How many were computed."""
    for (key, _), tensors in zip(part, stage.run([form for _, form in part]), strict=True):
        cache.add(key, tensors)
    return len(part)
