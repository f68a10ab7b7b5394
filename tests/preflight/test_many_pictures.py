"""What is checked and planned of many pictures is kept as columns: no object stays for each."""

from __future__ import annotations

import gc
import pathlib
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lora_scripts.config.load import from_values
from lora_scripts.preflight.checks.captions import check_captions
from lora_scripts.preflight.checks.dataset import check_pictures

FEW, MANY = 500, 3000
STAYS, PEAK = 300, 600
"""Bytes for each further picture: what stays, and what is in use at any time."""


def draw(folder: Path, count: int) -> Path:
    folder.mkdir()
    with open(folder / "metadata.csv", "w", encoding="utf-8") as table:
        table.write("file_name,text\n")
        for number in range(count):
            pixels = np.full((8, 8, 3), (number >> 8, number & 255, 7), np.uint8)
            Image.fromarray(pixels).save(folder / f"{number:06}.png")
            table.write(f'{number:06}.png,"a plain colour, number {number}"\n')
    return folder


def measured(folder: Path) -> tuple[int, int]:
    """Bytes that stay, and the most that were in use, after a check of ``folder``."""
    config = from_values(
        {"train_data_dir": str(folder), "output_dir": "x", "base_model": "x", "batch_size": 1}, "test"
    )
    gc.collect()
    tracemalloc.start()
    report, problems = check_pictures(config, 8, 8)
    problems += check_captions(report.train, lambda caption, limit: (len(caption.split()), ""), config)
    assert report.plan is not None
    window = report.plan.window(0)[1]
    value = report.fingerprint()
    assert not problems
    assert len(window) == 1
    assert len(value["train"]) == len(report.train)
    gc.collect()
    stays, peak = tracemalloc.get_traced_memory()
    paths = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, pathlib.__file__)])
    tracemalloc.stop()
    # pathlib interns the parts of paths, and Python's one table of such strings doubles now and then
    interned = sum(each.size for each in paths.statistics("filename"))
    return stays - interned, peak - interned


@pytest.mark.long
def test_memory_does_not_grow_by_objects(tmp_path: Path) -> None:
    measured(draw(tmp_path / "first", 20))  # what is imported and compiled once
    few, many = (measured(draw(tmp_path / str(count), count)) for count in (FEW, MANY))
    stays, peak = ((after - before) / (MANY - FEW) for before, after in zip(few, many, strict=True))
    print(f"{stays:.0f} bytes stay for each picture, {peak:.0f} at the peak")
    assert stays < STAYS
    assert peak < PEAK
