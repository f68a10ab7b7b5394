"""Stages fill a cache once for each content, in any form; memory does not grow with the values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from lora_scripts.core.problems import Location
from lora_scripts.core.seeds import derive_seed
from lora_scripts.data.manifest import Example
from lora_scripts.data.pixels import Picture
from lora_scripts.data.plan import Plan
from lora_scripts.data.sample import Handling, Sample
from lora_scripts.data.samples import Samples, samples_of
from lora_scripts.data.wording import Wording
from lora_scripts.families._base import Draw, Stage
from lora_scripts.training.batches import Batches
from lora_scripts.training.image_task import Pictures
from lora_scripts.training.stages import CachedStages


def samples(count: int, handling: Handling | None = None) -> Samples:
    root = Path("/data")
    pairs = [
        (
            Example(
                {"image": root / f"{n}.png", "name": f"{n:06}.png", "caption": f"a, b, c, {n}"},
                Location("/data/metadata.csv", n),
            ),
            Picture(root / f"{n}.png", 64, 48 + 16 * (n % 3), f"{n:064x}"),
        )
        for n in range(count)
    ]
    return samples_of(pairs, resolution=64, step=8, handling=handling or Handling())


class Counting:
    """Two stages that count what they are asked for; the values say what they were made from."""

    def __init__(self, width: int = 4, batch_size: int = 1) -> None:
        self.runs: Counter[str] = Counter()
        self.width, self.batch_size = width, batch_size

    def stages(self, *, cached: bool = True) -> list[Stage]:
        return [
            Stage(
                "latents", (), lambda s: f"{s.picture.sha256}{s.flipped}",
                lambda s: (s.placement.bucket.width, s.placement.bucket.height), self._latents,
                self.batch_size, cached,
            ),
            Stage("text", (), lambda s: derive(s.caption), lambda s: 0, self._text, self.batch_size),
        ]  # fmt: skip

    def _latents(self, part: list[Sample]) -> list[dict[str, Any]]:
        assert len({sample.placement.bucket for sample in part}) == 1
        self.runs["latents"] += len(part)
        return [
            {"latents": torch.full((self.width,), int(s.picture.sha256, 16) * (-1 if s.flipped else 1))}
            for s in part
        ]

    def _text(self, part: list[Sample]) -> list[dict[str, Any]]:
        self.runs["text"] += len(part)
        return [{"text": torch.tensor([float(len(s.caption))] * self.width)} for s in part]


def derive(text: str) -> str:
    return f"{derive_seed(0, text):x}"


def nothing(phase: str, done: int, total: int) -> None:
    """Nobody watches."""


@pytest.mark.parametrize("batch_size", [1, 4])
def test_every_form_is_computed_once(tmp_path: Path, batch_size: int) -> None:
    counting = Counting(batch_size=batch_size)
    found = samples(10, Handling(wording=Wording(shuffle=True, dropout=0.1, variants=5), flips=True))
    told: list[tuple[str, int, int]] = []
    stages = CachedStages(counting.stages(), tmp_path)
    stages.fill([*found, found[0]], lambda *at: told.append(at))
    assert counting.runs == {"latents": 20, "text": 10 * 5 + 1}
    assert told[-1] == ("text", 51, 51)
    assert [done for phase, done, _ in told if phase == "latents"][-1] == 20
    again = CachedStages(counting.stages(), tmp_path)
    again.fill(found, nothing)
    assert counting.runs == {"latents": 20, "text": 51}
    for sample in found:
        for seed in range(20):
            drawn = sample.drawn(derive_seed(seed, "x"))
            item = again.item(drawn)
            sign = -1 if drawn.flipped else 1
            assert item["latents"][0] == int(sample.picture.sha256, 16) * sign
            assert item["text"][0] == len(drawn.caption)


def test_what_is_not_cached_runs_for_each_item(tmp_path: Path) -> None:
    counting = Counting()
    stages = CachedStages(counting.stages(cached=False), tmp_path)
    found = samples(3)
    stages.fill(found, nothing)
    assert counting.runs["latents"] == 0
    for _ in range(2):
        assert set(stages.item(found[0])) == {"latents", "text"}
    assert counting.runs["latents"] == 2


def test_an_interrupted_cache_goes_on_where_it_was(tmp_path: Path) -> None:
    counting = Counting()

    def leave(phase: str, done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        CachedStages(counting.stages(), tmp_path).fill(samples(10), leave)
    CachedStages(counting.stages(), tmp_path).fill(samples(10), nothing)
    assert counting.runs == {"latents": 10, "text": 10}


def test_some_pictures_count_less(tmp_path: Path) -> None:
    learnt, kept = samples(2), samples(2, Handling(regularization=True, weight=0.5))
    stages = CachedStages(Counting().stages(), tmp_path)
    both = Samples.joined([learnt, kept])
    stages.fill(both, nothing)
    weighted = Pictures(both, stages)
    assert [float(weighted.item(n, Draw(1))["loss_weight"]) for n in range(4)] == [1, 1, 0.5, 0.5]
    assert "loss_weight" not in Pictures(learnt, stages).item(0, Draw(1))


class _Model:
    class family:
        @staticmethod
        def collate(model: Any, items: list[Any], draws: list[Draw]) -> dict[str, Any]:
            return {name: torch.stack([item[name] for item in items]) for name in items[0]}


def resident() -> int:
    """Bytes of this process that no file stands behind: a map of the cache's own pages is the system's."""
    memory = psutil.Process().memory_full_info()
    return int(getattr(memory, "uss", memory.rss)) - _mapped()


def _mapped() -> int:
    return sum(
        region.rss for region in psutil.Process().memory_maps() if region.path.endswith(".safetensors")
    )


@pytest.mark.slow
def test_a_hundred_thousand_pictures_are_cached_and_trained_from_in_flat_memory(tmp_path: Path) -> None:
    """Values of 2 x 8 KiB each: 1.6 GB in all, of which only keys and what is in hand may stay in memory."""
    count, width = 100_000, 2048
    found = samples(count)
    stages = CachedStages(Counting(width).stages(), tmp_path)
    before = resident()
    peaks: dict[str, int] = {}

    def watch(phase: str, done: int, total: int) -> None:
        if done % 5000 == 0:
            peaks[phase] = max(peaks.get(phase, 0), resident() - before)

    stages.fill(found, watch)
    filled = sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors"))
    plan = Plan(found.buckets()[1], 8, 1, seed=1)
    batches = Batches(_Model(), Pictures(found, stages), plan, 1)  # type: ignore[arg-type]
    seen = 0
    for number, window in enumerate(_windows(batches, plan.windows_per_epoch)):
        seen += window
        if number % 1000 == 0:
            peaks["training"] = max(peaks.get("training", 0), resident() - before)
    print(
        {phase: f"{size / 2**20:.0f} MiB" for phase, size in peaks.items()}, f"cache {filled / 2**20:.0f} MiB"
    )
    assert seen == count
    assert filled > 1.5e9
    assert max(peaks.values()) < 400 * 2**20


def _windows(batches: Batches, count: int) -> Iterator[int]:
    for window in batches.windows(0, count):
        yield window.examples
