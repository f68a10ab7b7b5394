"""The arithmetic behind "what fits which card": what a packed layer takes, and that the pages are its
result."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def fits() -> Any:
    spec = importlib.util.spec_from_file_location("fits", ROOT / "scripts" / "fits.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fits"] = module  # its data class asks for it
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_a_packed_layer_takes_what_is_counted(fits, bits):
    from diffusers import FluxTransformer2DModel

    from lora_scripts.families._base import Component
    from lora_scripts.families._quantised import fill

    sizes = {
        "num_layers": 0, "num_single_layers": 1, "num_attention_heads": 8, "attention_head_dim": 64,
        "joint_attention_dim": 512, "pooled_projection_dim": 512, "axes_dims_rope": (8, 28, 28),
    }  # fmt: skip
    state = FluxTransformer2DModel(**sizes).state_dict()
    with torch.device("meta"):
        plain = FluxTransformer2DModel(**sizes)
    counted = fits.weight(plain, bits) * fits.GIB
    part = Component("transformer", "diffusers", "FluxTransformer2DModel")
    made = fill(part, plain, state, bits, device=torch.device("cpu"), dtype=torch.bfloat16)
    held = [t for name, t in made.state_dict().items() if "map" not in name and hasattr(t, "nbytes")]
    taken = sum(t.nbytes for t in held)
    assert taken == pytest.approx(counted, rel=0.02)


def test_every_picture_family_is_in_the_table(fits):
    from lora_scripts.families._source import family_named, family_names

    pictures = {n for n in family_names() if family_named(n).sheet.task == "image-generation"}
    assert {family for _, family, *_ in fits.BASES} == pictures


@pytest.mark.slow
def test_the_pages_are_what_is_computed(fits):
    for path, text in fits.pages().items():
        assert path.read_text(encoding="utf-8") == text, f"run python scripts/fits.py: {path}"
