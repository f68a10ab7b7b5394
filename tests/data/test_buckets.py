"""Every picture fits a shape, whatever it measures, and is brought there without distortion."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lora_scripts.data.buckets import MAX_RATIO, Bucket, Placement, buckets, place, prepare

SIZES = st.tuples(st.integers(8, 12000), st.integers(8, 12000))
SETTINGS = st.sampled_from(
    [(128, 8), (512, 64), (512, 8), (768, 64), (1024, 64), (1024, 32), (100, 64), (64, 64)]
)


@settings(max_examples=300)
@given(st.lists(SIZES, max_size=20), SETTINGS, st.booleans())
def test_no_picture_is_lost_and_every_shape_fits_the_model(
    sizes: list[tuple[int, int]], setting: tuple[int, int], upscale: bool
) -> None:
    resolution, step = setting
    placed = place(sizes, resolution=resolution, step=step, upscale=upscale)
    assert len(placed) == len(sizes)
    for size, placement in zip(sizes, placed, strict=True):
        bucket, (width, height), (left, top) = placement.bucket, placement.resize, placement.crop
        assert bucket.width % step == bucket.height % step == 0
        assert step <= min(bucket.width, bucket.height)
        assert bucket.width * bucket.height <= max(step, resolution) ** 2
        assert 0 <= left <= width - bucket.width
        assert 0 <= top <= height - bucket.height
        assert (width == bucket.width) or (height == bucket.height), "scaled no more than needed"
        scale = max(bucket.width / size[0], bucket.height / size[1])
        assert abs(size[0] * scale - width) <= 0.501
        assert abs(size[1] * scale - height) <= 0.501
        if not upscale and min(size) >= step:
            assert bucket.width <= size[0]
            assert bucket.height <= size[1]


@pytest.mark.parametrize(("resolution", "step"), [(128, 8), (512, 64), (512, 8), (1024, 64), (640, 64)])
def test_shapes_have_about_the_area_of_the_square_and_come_in_pairs(resolution: int, step: int) -> None:
    shapes = buckets(resolution, step)
    assert Bucket(resolution, resolution) in shapes
    assert {Bucket(b.height, b.width) for b in shapes} == set(shapes)
    for shape in shapes:
        assert 0.7 < shape.width * shape.height / resolution**2 <= 1
        assert 1 / MAX_RATIO <= shape.width / shape.height <= MAX_RATIO
    assert len(shapes) < 60


@pytest.mark.parametrize(
    ("size", "bucket"),
    [
        ((512, 512), (512, 512)),
        ((4000, 4000), (512, 512)),
        ((1920, 1080), (704, 320)),
        ((1080, 1920), (320, 704)),
        ((3000, 2000), (576, 448)),
        ((30, 20), (576, 448)),
        ((10000, 8), (1024, 256)),
    ],
)
def test_which_shape_is_chosen(size: tuple[int, int], bucket: tuple[int, int]) -> None:
    (placement,) = place([size], resolution=512, step=64, upscale=True)
    assert placement.bucket in (Bucket(*bucket), *_equally_good(size, bucket))


def _equally_good(size: tuple[int, int], bucket: tuple[int, int]) -> list[Bucket]:
    def lost(shape: Bucket) -> float:
        ratio = size[0] * shape.height / size[1] / shape.width
        return 1 - min(ratio, 1 / ratio)

    least = min(lost(shape) for shape in buckets(512, 64))
    return [shape for shape in buckets(512, 64) if lost(shape) == pytest.approx(least)]


def test_ordinary_photographs_lose_little() -> None:
    for ratio in (1, 4 / 3, 3 / 2, 16 / 9, 2, 3, 4):
        (placement,) = place([(round(3000 * ratio), 3000)], resolution=1024, step=64, upscale=True)
        assert placement.lost < 0.1, ratio
    (wide,) = place([(8000, 1000)], resolution=512, step=64, upscale=True)
    assert wide.lost == pytest.approx(0.5, abs=0.01)


def test_a_small_picture_may_keep_its_size() -> None:
    (small, large, tiny) = place([(300, 200), (3000, 2000), (20, 9)], resolution=512, step=64, upscale=False)
    assert small.bucket == Bucket(256, 192)
    assert large.bucket == place([(3000, 2000)], resolution=512, step=64)[0].bucket
    assert tiny == Placement(Bucket(64, 64), (142, 64), (39, 0))


def test_the_middle_is_kept_at_its_own_scale() -> None:
    image = Image.new("RGB", (400, 100), "black")
    image.paste("red", (150, 0, 250, 100))
    out = prepare(image, Placement(Bucket(64, 64), (256, 64), (96, 0)))
    assert out.shape == (64, 64, 3)
    assert out.dtype == np.uint8
    assert (out[:, 4:-4] == [255, 0, 0]).all()


def test_prepare_agrees_with_scaling_and_then_cutting() -> None:
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize((400, 300))
    (placement,) = place([smooth.size], resolution=128, step=64)
    left, top = placement.crop
    box = (left, top, left + placement.bucket.width, top + placement.bucket.height)
    plain = np.asarray(smooth.resize(placement.resize, Image.Resampling.LANCZOS).crop(box)).astype(int)
    assert np.abs(plain - prepare(smooth, placement)).mean() < 1


def test_a_very_long_picture_is_never_enlarged_whole() -> None:
    import tracemalloc

    image = Image.new("RGB", (8, 10000))
    (placement,) = place([image.size], resolution=1024, step=64)
    assert placement.resize[0] * placement.resize[1] > 100_000_000
    tracemalloc.start()
    assert prepare(image, placement).shape == (2048, 512, 3)
    assert tracemalloc.get_traced_memory()[1] < 50_000_000
    tracemalloc.stop()


@given(st.lists(SIZES, min_size=2, max_size=10))
def test_a_placement_depends_on_the_picture_alone(sizes: list[tuple[int, int]]) -> None:
    placed = place(sizes, resolution=512, step=64)
    assert [*placed][::-1] == [*place(sizes[::-1], resolution=512, step=64)]
    assert placed[0] == place(sizes[:1], resolution=512, step=64)[0]
