"""Memory that a run is done with goes back to the system."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lora_scripts.training import heap

ROOT = Path(__file__).resolve().parents[2]
glibc = pytest.mark.skipif(heap._glibc() is None, reason="another C library")
PLACES = """
import sys
from lora_scripts.training import heap

if sys.argv[1] == "prepared":
    heap.prepare()
import torch

print(sum(torch.ones(2**20 + size).data_ptr() % 4096 for size in range(9)))
"""


def printed(code, *words):
    # a run in this process before may have set it for all that come after
    clean = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        env=clean | {"PYTHONPATH": str(ROOT / "src")},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return int(done.stdout)


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="what PyTorch asks for elsewhere")
def test_large_tensors_begin_with_a_page():
    assert printed(PLACES, "prepared") == 0
    assert printed(PLACES, "not") > 0


@pytest.mark.long
@glibc
def test_holes_between_what_stays_are_given_back():
    code = """
import torch
from lora_scripts.training import heap
def resident():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) // 1024
rows = [torch.ones(2**16) for _ in range(800)]
kept = rows[::2]
del rows
before = resident()
heap.give_back()
print(before - resident())
"""
    assert printed(code) > 60


def test_what_the_user_set_stays(monkeypatch):
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "0")
    heap.prepare()
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == "0"


def test_elsewhere_nothing_is_asked(monkeypatch):
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", "1")  # as it is put back, whatever it was
    monkeypatch.setattr(heap, "_glibc", lambda: None)
    heap.prepare()
    heap.give_back()
