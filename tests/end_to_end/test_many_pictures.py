"""Memory does not grow with the pictures that are cached and learnt from, beyond a little for each name."""

from __future__ import annotations

import pytest

from tests.end_to_end.many_pictures import run

FEW, MANY = 4500, 13_500
"""Both more than a shard of the cache holds: what waits to be written is the same."""
ALLOWED = 2048
"""Bytes for each further picture: its name, caption, hash and place take less than a quarter of that, and the
rest is for what the allocator rounds up. A list of ``Sample`` objects alone would be as much again."""


@pytest.mark.slow
def test_memory_is_flat_over_real_files(tmp_path):
    few, many = run(tmp_path / "few", FEW, 20), run(tmp_path / "many", MANY, 20)
    assert set(many) == {"pictures checked", "base", "latents", "text", "trained"}
    for phase, figures in many.items():
        if phase in few and phase != "base":
            grown = (figures["own"] - few[phase]["own"]) * 2**20
            assert grown < ALLOWED * (MANY - FEW), (phase, figures, few[phase])
