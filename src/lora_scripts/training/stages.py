"""Running a family's stages: what frozen modules say about each example is computed once and cached."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
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
        """Computes what is missing, batched by shape; each distinct content once."""
        for stage in self.stages:
            cache = self.caches[stage.name]
            missing = {key: sample for sample in samples if (key := stage.key(sample)) not in cache}
            groups: dict[Hashable, list[tuple[str, Sample]]] = defaultdict(list)
            for key, sample in missing.items():
                groups[stage.group(sample)].append((key, sample))
            done = 0
            try:
                for group in groups.values():
                    for start in range(0, len(group), stage.batch_size):
                        part = group[start : start + stage.batch_size]
                        values = stage.run([sample for _, sample in part])
                        for (key, _), tensors in zip(part, values, strict=True):
                            cache.add(key, tensors)
                        done += len(part)
                        progress(stage.name, done, len(missing))
            finally:
                cache.flush()

    def item(self, sample: Sample) -> dict[str, torch.Tensor]:
        """All cached tensors of one sample, by name."""
        item: dict[str, Any] = {}
        for stage in self.stages:
            item |= self.caches[stage.name].get(stage.key(sample))
        return item
