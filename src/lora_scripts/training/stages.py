"""Running a family's stages: what frozen modules say about each example is computed once and cached."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
            if not stage.cached:
                continue
            cache = self.caches[stage.name]
            missing = {key for sample in samples for key, _ in _forms(stage, sample) if key not in cache}
            total = len(missing)
            waiting: dict[Hashable, list[tuple[str, Sample]]] = defaultdict(list)
            try:
                for key, form in (pair for sample in samples for pair in _forms(stage, sample)):
                    if key not in missing:
                        continue
                    missing.remove(key)
                    group = stage.group(form)
                    waiting[group].append((key, form))
                    if len(waiting[group]) == stage.batch_size:
                        _compute(stage, waiting.pop(group), cache)
                        left = len(missing) + sum(map(len, waiting.values()))
                        progress(stage.name, total - left, total)
                for rest in waiting.values():
                    _compute(stage, rest, cache)
                    progress(stage.name, total, total)
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


def _compute(stage: Stage, part: list[tuple[str, Sample]], cache: StageCache) -> None:
    for (key, _), tensors in zip(part, stage.run([form for _, form in part]), strict=True):
        cache.add(key, tensors)
