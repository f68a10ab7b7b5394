"""Pictures as they really come: odd modes are converted honestly, and broken files are named, all at once."""

from __future__ import annotations

import io
import os
import random
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from lora_scripts.core.problems import Location, errors
from lora_scripts.data.images import decode, examine
from lora_scripts.data.manifest import Example
from lora_scripts.data.pixels import MAX_PIXELS, BadPicture, open_picture
from tests.data.icc import grey, inks


def colour(path: Path, background: str = "white", at: tuple[int, int] = (4, 4)) -> tuple[int, ...]:
    image = decode(path, background=background)
    assert image.mode == "RGB"
    pixel = image.getpixel(at)
    assert isinstance(pixel, tuple)
    return pixel


def why(path: Path) -> str:
    with pytest.raises(BadPicture) as caught:
        open_picture(path)
    return caught.value.problem.code


def noisy(size: tuple[int, int] = (64, 64), mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).convert(mode)


def png(width: int, height: int, bits: int, kind: int, rows: Iterator[bytes] | None = None) -> bytes:
    """A PNG written by hand; without ``rows`` it is all zeros, which pack a thousandfold."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    packer = zlib.compressobj(9)
    length = (width * bits + 7) // 8
    packed = b"".join(packer.compress(b"\0" + row) for row in rows or (bytes(length) for _ in range(height)))
    head = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", packed + packer.flush()) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(("value", "shown"), [(0, 0), (257, 1), (40000, 156), (65535, 255)])
def test_16_bit_grey_is_scaled_and_not_clipped(tmp_path: Path, value: int, shown: int) -> None:
    path = tmp_path / "deep.png"
    Image.fromarray(np.full((9, 9), value, dtype=np.uint16)).save(path)
    assert colour(path) == (shown, shown, shown)


def test_16_bit_big_endian_written_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "deep.png"
    path.write_bytes(png(16, 16, 16, 0, (struct.pack(">16H", *[40000] * 16) for _ in range(16))))
    assert colour(path) == (156, 156, 156)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
@pytest.mark.parametrize(("background", "shown"), [("white", 255), ("black", 0), ("#808080", 128)])
def test_what_is_transparent_shows_the_background(
    tmp_path: Path, mode: str, background: str, shown: int
) -> None:
    path = tmp_path / "clear.png"
    if mode == "P":
        image = Image.new("P", (16, 16), 1)
        image.putpalette([0, 0, 255, 255, 0, 0] + [0] * 762)
        image.save(path, transparency=1)
    else:
        Image.new("RGBA", (16, 16), (255, 0, 0, 0)).convert(mode).save(path)
    assert colour(path, background) == (shown, shown, shown)


def test_half_transparency_mixes(tmp_path: Path) -> None:
    path = tmp_path / "half.webp"
    Image.new("RGBA", (16, 16), (255, 0, 0, 128)).save(path, lossless=True)
    red, green, blue = colour(path)
    assert red == 255
    assert green == blue == pytest.approx(127, abs=1)


@pytest.mark.parametrize(("mode", "value"), [("L", 90), ("1", 1), ("P", 3), ("RGB", (90, 90, 90))])
def test_plain_modes_keep_their_colour(tmp_path: Path, mode: str, value: object) -> None:
    path = tmp_path / "plain.png"
    image = Image.new(mode, (16, 16), value)  # type: ignore[arg-type]
    if mode == "P":
        image.putpalette([10, 20, 30] * 3 + [90, 90, 90] + [0] * 756)
    image.save(path)
    assert colour(path) == ((255, 255, 255) if mode == "1" else (90, 90, 90))


def test_the_camera_s_rotation_is_applied(tmp_path: Path) -> None:
    image = Image.new("RGB", (100, 50), "blue")
    image.paste("red", (0, 0, 20, 50))
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "phone.jpg"
    image.save(path, exif=exif, quality=95)
    upright, picture = open_picture(path)
    assert (picture.width, picture.height) == upright.size == (50, 100)
    assert upright.getpixel((25, 5))[0] > 200, "what was left is on top"
    assert upright.getpixel((25, 90))[2] > 200


@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_eight_rotations_agree_with_pillow_s(tmp_path: Path, orientation: int) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.png"
    noisy((32, 16)).save(path, exif=exif)
    with Image.open(path) as image:
        assert decode(path).tobytes() == ImageOps.exif_transpose(image).tobytes()


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_broken_exif_does_not_spoil_a_picture(tmp_path: Path) -> None:
    path = tmp_path / "odd.jpg"
    noisy().save(path, exif=b"Exif\0\0II*\0\xff\xff\xff\xff garbage")
    assert decode(path).size == (64, 64)


def test_cmyk_without_a_profile_is_converted_and_noted(tmp_path: Path) -> None:
    path = tmp_path / "print.jpg"
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(path, quality=100)
    red, green, _ = colour(path)
    assert red > 240
    assert green < 20
    assert open_picture(path)[1].notes == ("LS2063",)


def test_cmyk_goes_through_its_own_inks(tmp_path: Path) -> None:
    path = tmp_path / "print.jpg"
    cyan = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    cyan.save(path, quality=100, icc_profile=inks((128, 200, 180)))
    red, green, blue = colour(path)
    assert red > green + 50, "the first ink is a red here; the plain formula makes it cyan"
    assert red > blue + 50
    assert open_picture(path)[1].notes == ()


@pytest.mark.parametrize(("gamma", "value", "shown"), [(1.0, 128, 188), (2.2, 128, 129), (1.8, 100, 119)])
def test_grey_goes_through_its_own_curve(tmp_path: Path, gamma: float, value: int, shown: int) -> None:
    """Expected: light = (value / 255) ^ gamma, seen through sRGB's curve (IEC 61966-2-1)."""
    path = tmp_path / "grey.png"
    Image.new("L", (16, 16), value).save(path, icc_profile=grey(gamma))
    light = (value / 255) ** gamma
    computed = 255 * (1.055 * light ** (1 / 2.4) - 0.055)
    assert computed == pytest.approx(shown, abs=1)
    assert colour(path) == pytest.approx((shown,) * 3, abs=1)


@pytest.mark.parametrize("kind", ["sRGB", "CMYK", "broken"])
def test_a_profile_that_does_not_fit_grey_changes_nothing(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "grey.png"
    profiles = {
        "sRGB": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        "CMYK": inks((128, 128, 128)),
        "broken": b"no profile at all",
    }
    Image.new("L", (16, 16), 90).save(path, icc_profile=profiles[kind])
    assert colour(path) == (90, 90, 90)


def test_a_profile_that_does_not_fit_cmyk_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "print.jpg"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(path, icc_profile=profile)
    assert open_picture(path)[1].notes == ("LS2063",)


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "bmp", "gif", "avif"])
def test_every_allowed_format_is_read_and_its_cut_half_refused(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"whole.{ending}"
    noisy().save(path)
    picture = open_picture(path)[1]
    assert (picture.width, picture.height, picture.notes) == (64, 64, ())
    half = tmp_path / f"half.{ending}"
    data = path.read_bytes()
    half.write_bytes(data[: len(data) // 2])
    assert why(half) == "LS2054"


def test_a_flipped_bit_in_a_png_is_found(tmp_path: Path) -> None:
    path = tmp_path / "flipped.png"
    noisy().save(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert why(path) == "LS2054"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "LS2052"),
        (b"<!DOCTYPE html><html><body>403 Forbidden", "LS2051"),
        (b"\xef\xbb\xbf\n  <html>", "LS2051"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 12\n", "LS2058"),
        (b"II*\0\x08\0\0\0", "LS2055"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "LS2055"),
        (b'<?xml version="1.0"?><svg xmlns="x"/>', "LS2055"),
        (b"8BPS\0\1", "LS2055"),
        (b"not a picture at all", "LS2050"),
        (b"\x89PNG\r\n\x1a\n", "LS2054"),
    ],
)
def test_what_is_no_picture_is_called_what_it_is(tmp_path: Path, data: bytes, code: str) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(data)
    assert why(path) == code


def test_a_real_tiff_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "scan.tif"
    noisy().save(path)
    with pytest.raises(BadPicture) as caught:
        open_picture(path)
    assert caught.value.problem.params["format"] == "TIFF"


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_bombs_are_refused_before_they_unpack(tmp_path: Path) -> None:
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for width, height in ((12000, 12000), (30000, 30000)):
        path = tmp_path / f"bomb{width}.png"
        path.write_bytes(png(width, height, 1, 0))
        assert path.stat().st_size < 200_000
        assert why(path) == "LS2053"
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 60_000, "kilobytes"


def test_the_cap_is_a_number_of_pixels_and_not_a_side(tmp_path: Path) -> None:
    path = tmp_path / "line.png"
    path.write_bytes(png(MAX_PIXELS // 8 + 1, 8, 1, 0))
    assert why(path) == "LS2053"
    path.write_bytes(png(100_000, 8, 1, 0))
    assert decode(path).size == (100_000, 8)


@pytest.mark.parametrize("size", [(7, 100), (100, 7), (1, 1), (1, 10000)])
def test_a_side_below_eight_pixels_is_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "tiny.png"
    Image.new("RGB", size).save(path)
    assert why(path) == "LS2056"


def test_a_wrong_ending_is_accepted_and_noted(tmp_path: Path) -> None:
    path = tmp_path / "really_png.jpg"
    noisy().save(path, format="PNG")
    assert open_picture(path)[1].notes == ("LS2061",)


@pytest.mark.parametrize("ending", ["gif", "webp", "png"])
def test_an_animation_gives_its_first_frame_with_a_warning(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"moving.{ending}"
    frames = [Image.new("RGB", (16, 16), name) for name in ("red", "lime", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=50)
    assert open_picture(path)[1].notes == ("LS2062",)
    red, green, _ = colour(path)
    assert red > 240
    assert green < 20


def test_a_folder_or_missing_file_is_named(tmp_path: Path) -> None:
    assert why(tmp_path) == "LS2057"
    assert why(tmp_path / "nothing.png") == "LS2057"


def test_mutated_bytes_are_refused_or_read_and_raise_nothing_else(tmp_path: Path) -> None:
    rng = random.Random(1)
    path = tmp_path / "mutant.bin"
    refused = total = 0
    for ending in ("jpeg", "png", "webp", "bmp", "gif", "avif"):
        buffer = io.BytesIO()
        noisy((24, 24)).save(buffer, format=ending)
        for _ in range(60):
            data = bytearray(buffer.getvalue())
            for _ in range(rng.choice((1, 4, 24))):
                data[rng.randrange(len(data))] = rng.randrange(256)
            path.write_bytes(data)
            total += 1
            try:
                image = decode(path)
                assert image.mode == "RGB"
            except BadPicture:
                refused += 1
    assert 0 < refused < total


def example(path: Path) -> Example:
    fields = {"image": path, "caption": "x", "name": path.name}
    return Example(fields, Location("metadata.csv", 1))


@pytest.fixture
def corpus(tmp_path: Path) -> list[Example]:
    """Thirty good pictures, and a bad one after every tenth."""
    paths = []
    for number in range(30):
        path = tmp_path / f"good{number:02}.png"
        Image.new("RGB", (20 + number, 30), (number, 0, 0)).save(path)
        paths.append(path)
        if number % 10 == 9:
            bad = tmp_path / f"bad{number}.png"
            bad.write_bytes((b"", b"<html>", path.read_bytes()[:60])[number // 10])
            paths.append(bad)
    return [example(path) for path in paths]


def test_all_bad_pictures_are_named_at_once_in_order(corpus: list[Example]) -> None:
    seen: list[tuple[int, int]] = []
    good, problems = examine(corpus, progress=lambda done, total: seen.append((done, total)))
    assert [(p.code, p.params["name"]) for p in errors(problems)] == [
        ("LS2052", "bad9.png"),
        ("LS2051", "bad19.png"),
        ("LS2054", "bad29.png"),
    ]
    assert [picture.width for _, picture in good] == [20 + number for number in range(30)]
    assert seen == [(done, 33) for done in range(1, 34)]


def test_bad_pictures_are_skipped_on_request(corpus: list[Example]) -> None:
    good, problems = examine(corpus, on_bad="skip")
    assert len(good) == 30
    assert errors(problems) == []
    assert [p.severity for p in problems] == ["warning"] * 3


def test_nothing_left_is_an_error_even_when_skipping(tmp_path: Path) -> None:
    path = tmp_path / "empty.png"
    path.touch()
    problems = examine([example(path)], on_bad="skip")[1]
    assert [p.code for p in errors(problems)] == ["LS2060"]


def test_animations_are_left_out_on_request(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (16, 16), name) for name in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    frames[0].save(tmp_path / "b.png")
    examples = [
        Example({"image": tmp_path / name, "name": name, "caption": "x"}, Location("metadata.csv", 1))
        for name in ("a.gif", "b.png")
    ]
    good, problems = examine(examples, on_animation="skip")
    assert [example.fields["name"] for example, _ in good] == ["b.png"]
    assert [(p.code, p.severity, p.params["names"]) for p in problems] == [("LS2411", "warning", "a.gif")]
    good, problems = examine(examples)
    assert len(good) == 2
    assert [p.code for p in problems] == ["LS2062"]


def test_the_same_picture_under_two_names_is_noticed(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (16, 16)).save(tmp_path / name)
    problems = examine([example(tmp_path / "a.png"), example(tmp_path / "b.png")])[1]
    assert [(p.code, p.params["names"]) for p in problems] == [("LS2066", "a.png = b.png")]


def test_nothing_of_the_user_s_is_changed(corpus: list[Example]) -> None:
    paths = [each.fields["image"] for each in corpus]
    before = {path: (path.read_bytes(), os.stat(path).st_mtime_ns) for path in paths}
    listed = sorted(paths[0].parent.iterdir())
    examine(corpus)
    assert {path: (path.read_bytes(), os.stat(path).st_mtime_ns) for path in paths} == before
    assert sorted(paths[0].parent.iterdir()) == listed


def test_truncated_pictures_are_never_allowed() -> None:
    from PIL import ImageFile

    source = Path(__file__).parents[2] / "src"
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
    named = [p for p in source.rglob("*.py") if "LOAD_TRUNCATED_IMAGES" in p.read_text(encoding="utf-8")]
    assert named == []
