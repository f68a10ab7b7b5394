"""Damage that decodes without an error is seen, and intact pictures are left in peace."""

from __future__ import annotations

import io
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from lora_scripts.data.damage import has_grey_tail, has_zeroed_data, lacks_scans
from lora_scripts.data.pixels import open_picture

KINDS = ("photo", "drawing", "letterbox", "bright")
ENCODINGS: list[dict[str, Any]] = [
    {"quality": 60},
    {"quality": 95, "subsampling": 0},
    {"quality": 85, "optimize": True},
    {"quality": 85, "progressive": True},
    {"quality": 85, "restart_marker_rows": 1},
]


def picture(kind: str, size: tuple[int, int] = (320, 240)) -> Image.Image:
    rng = np.random.default_rng(3)
    noise = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).resize(
        size, Image.Resampling.BICUBIC
    )
    image = Image.fromarray(
        np.clip(np.asarray(noise) + rng.normal(0, 5, (size[1], size[0], 3)), 0, 255).astype(np.uint8)
    )
    pen = ImageDraw.Draw(image)
    if kind == "drawing":
        pen.rectangle((0, 0, *size), fill="white")
        for x in range(20, 280, 50):
            pen.ellipse((x, x // 2, x + 60, x // 2 + 70), fill=(x % 256, 90, 200))
    if kind == "letterbox":
        pen.rectangle((0, 0, size[0], 29), fill="black")
        pen.rectangle((0, 210, size[0], 240), fill="black")
    if kind == "bright":
        image = image.filter(ImageFilter.GaussianBlur(9))
    return image


def jpeg(kind: str, mode: str = "RGB", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture(kind).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def decoded(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", ENCODINGS, ids=str)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_intact_pictures_are_not_suspected(kind: str, options: dict[str, Any], mode: str) -> None:
    data = jpeg(kind, mode, **options)
    assert not has_grey_tail(decoded(data).convert("RGB"))
    assert not has_zeroed_data(data)
    assert not lacks_scans(data)


@pytest.mark.parametrize("kind", ["photo", "letterbox", "bright"])
@pytest.mark.parametrize("options", [ENCODINGS[0], ENCODINGS[1], ENCODINGS[4]], ids=str)
@pytest.mark.parametrize("part", [0.3, 0.6, 0.9])
def test_zeros_in_the_middle_are_seen(kind: str, options: dict[str, Any], part: float) -> None:
    data = bytearray(jpeg(kind, **options))
    start = int(len(data) * part)
    data[start : start + 200] = bytes(200)
    decoded(bytes(data))
    assert has_zeroed_data(bytes(data))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", [0.4, 0.8])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_file_that_was_cut_and_closed_is_seen(kind: str, part: float, mode: str) -> None:
    data = jpeg(kind, mode, quality=85)
    cut = data[: int(len(data) * part)] + b"\xff\xd9"
    assert has_grey_tail(decoded(cut).convert("RGB"))


PROGRESSIVE: list[dict[str, Any]] = [
    {"quality": 40}, {"quality": 100, "subsampling": 0}, {"quality": 75, "optimize": True},
]  # fmt: skip


def scans_of(data: bytes) -> list[int]:
    """Where each scan begins; a decoder's own count of them is the frame's."""
    return [place for place in range(len(data) - 1) if data[place : place + 2] == b"\xff\xda"]


@pytest.mark.parametrize("options", PROGRESSIVE, ids=str)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_progressive_file_without_its_last_scans_is_seen(options: dict[str, Any], mode: str) -> None:
    data = jpeg("photo", mode, progressive=True, **options)
    assert not lacks_scans(data)
    starts = scans_of(data)
    assert len(starts) > 3
    read = 0
    for start, end in pairwise(starts):
        for place in (start, (start + end) // 2):
            cut = data[:place] + b"\xff\xd9"
            assert lacks_scans(cut)
            with suppress(OSError):
                decoded(cut)
                read += 1
    assert read, "such files decode, and nothing else would say it"


def test_a_file_that_is_not_progressive_is_not_asked_for_scans() -> None:
    assert not lacks_scans(jpeg("photo", quality=85)[:5000] + b"\xff\xd9")
    assert not lacks_scans(b"\xff\xd8\xff\xd9")


def test_a_grey_ground_is_no_tail() -> None:
    image = Image.new("RGB", (64, 64), (128, 128, 128))
    assert not has_grey_tail(image)
    ImageDraw.Draw(image).ellipse((10, 10, 50, 50), fill="red")
    assert not has_grey_tail(image)


def test_zeros_behind_the_end_and_in_headers_are_no_damage() -> None:
    data = jpeg("photo", quality=85)
    assert not has_zeroed_data(data + bytes(500))
    assert not has_zeroed_data(data[:2] + b"\xff\xe1\x01\x00" + bytes(254) + data[2:])


def test_any_bytes_give_an_answer() -> None:
    whole = [jpeg("photo", quality=60), jpeg("photo", quality=60, progressive=True)]
    rng = np.random.default_rng(0)
    for number in range(300):
        data = whole[number % 2]
        broken = bytearray(data[: rng.integers(2, len(data))])
        for place in rng.integers(0, len(broken), 8):
            broken[place] = rng.integers(0, 256)
        assert has_zeroed_data(bytes(broken)) in (True, False)
        assert lacks_scans(bytes(broken)) in (True, False)


def test_a_damaged_picture_is_used_and_named(tmp_path: Path) -> None:
    data = jpeg("photo", quality=85)
    path = tmp_path / "img.jpg"
    path.write_bytes(data[: len(data) // 2] + b"\xff\xd9")
    assert open_picture(path)[1].notes == ("LS2410",)
    fine = jpeg("photo", quality=85, progressive=True)
    path.write_bytes(fine[: scans_of(fine)[-1]] + b"\xff\xd9")
    assert open_picture(path)[1].notes == ("LS2410",)
    path.write_bytes(fine)
    assert open_picture(path)[1].notes == ()
    path.write_bytes(data)
    assert open_picture(path)[1].notes == ()
