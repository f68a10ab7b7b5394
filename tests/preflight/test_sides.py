"""Shapes beyond the places that a base knows are said before it is loaded."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from lora_scripts.data.buckets import Bucket
from lora_scripts.families.sd3 import FAMILY
from lora_scripts.preflight.checks.flow import check_sides


def description(limit: int) -> Any:
    return SimpleNamespace(largest_side=limit, source=SimpleNamespace(name="base"))


@pytest.mark.parametrize(("places", "pixels"), [(192, 3072), (384, 6144)])
def test_the_published_bases_reach_so_far(places, pixels):
    """Stable Diffusion 3 and 3.5 medium: patches of two latents, each of eight pixels."""
    configs = {
        "transformer": {"pos_embed_max_size": places},
        "vae": {"block_out_channels": [128, 256, 512, 512]},
    }
    assert FAMILY.largest_side(configs) == pixels


def test_shapes_beyond_the_limit_are_named_once():
    shapes = [Bucket(64, 64), Bucket(80, 48), Bucket(80, 48), Bucket(48, 80)]
    (problem,) = check_sides(shapes, description(64))
    assert (problem.code, problem.params["shapes"]) == ("LS4546", "48x80, 80x48")
    assert check_sides(shapes, description(80)) == []
    assert check_sides(shapes, description(0)) == []
