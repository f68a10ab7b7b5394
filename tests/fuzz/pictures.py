"""Picture files as broken downloads, cameras, painters and attackers leave them."""

from __future__ import annotations

import io
import random
import struct
import warnings
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, PngImagePlugin

from lora_scripts.core.problems import Location, Problem
from lora_scripts.data import images
from lora_scripts.data.manifest import Example
from lora_scripts.data.pixels import MAX_PIXELS, MIN_SIDE, BadPicture, open_alpha, open_picture

from .case import Case, WrongAnswerError, judge
from .damage import anyhow, cut, flipped, mutated, noise, spliced, zeroed

NAME = "pictures"
HEAVY = 997
"""Every so manieth picture is as large as is allowed, which takes seconds."""
SUFFIXES = (".jpg", ".png", ".webp", ".bmp", ".gif", ".avif")
CUT_IS_SEEN = (".jpg", ".png", ".webp", ".bmp")
REFUSED = frozenset(("LS2050", "LS2051", "LS2052", "LS2054", "LS2055", "LS2056", "LS2058"))


def _scene(size: tuple[int, int] = (96, 72)) -> Image.Image:
    rng = np.random.default_rng(5)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    return coarse.resize(size, Image.Resampling.BICUBIC)


def _saved(image: Image.Image, suffix: str, **options: Any) -> bytes:
    kinds = {
        ".jpg": "JPEG",
        ".png": "PNG",
        ".webp": "WEBP",
        ".bmp": "BMP",
        ".gif": "GIF",
        ".avif": "AVIF",
        ".tif": "TIFF",
    }
    buffer = io.BytesIO()
    image.save(buffer, kinds[suffix], **options)
    return buffer.getvalue()


@cache
def originals() -> tuple[tuple[str, str, bytes], ...]:
    """Suffix, name and bytes of intact pictures of every kind that people have."""
    scene = _scene()
    clear = scene.copy()
    clear.putalpha(Image.linear_gradient("L").resize(scene.size))
    frames = [scene, scene.rotate(90), scene.rotate(180)]
    moving: dict[str, Any] = {"save_all": True, "append_images": frames[1:], "duration": 80}
    grey16 = Image.fromarray((np.arange(96 * 72, dtype=np.uint16) * 9).reshape(72, 96))
    palette = scene.quantize(32)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "camera"
    inks = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    text = PngImagePlugin.PngInfo()
    text.add_itxt("parameters", "赛博朋克 <img onerror=1>", zip=True)
    made: list[tuple[str, str, bytes]] = []
    for suffix in SUFFIXES:
        made.append((suffix, "plain", _saved(scene, suffix)))
    for suffix in (".png", ".webp", ".avif"):
        made.append((suffix, "clear", _saved(clear, suffix)))
    for suffix in (".gif", ".webp", ".png"):
        made.append((suffix, "moving", _saved(scene, suffix, **moving)))
    made += [
        (".jpg", "progressive", _saved(scene, ".jpg", progressive=True, quality=90)),
        (".jpg", "grey", _saved(scene.convert("L"), ".jpg")),
        (".jpg", "cmyk", _saved(scene.convert("CMYK"), ".jpg")),
        (".jpg", "cmyk with a profile of lights", _saved(scene.convert("CMYK"), ".jpg", icc_profile=inks)),
        (".jpg", "turned", _saved(scene, ".jpg", exif=exif)),
        (".jpg", "restarts", _saved(scene, ".jpg", restart_marker_rows=1)),
        (".png", "16 bits", _saved(grey16, ".png")),
        (".png", "1 bit", _saved(scene.convert("1"), ".png")),
        (".png", "palette", _saved(palette, ".png")),
        (".png", "palette with a clear colour", _saved(palette, ".png", transparency=3)),
        (".png", "palette with clear colours", _saved(palette, ".png", transparency=bytes(range(0, 250, 9)))),
        (".png", "grey and clear", _saved(clear.convert("LA"), ".png")),
        (".png", "grey with a clear value", _saved(scene.convert("L"), ".png", transparency=7)),
        (".png", "a clear colour", _saved(scene, ".png", transparency=(1, 2, 3))),
        (".png", "text and profile", _saved(scene, ".png", pnginfo=text, icc_profile=inks)),
        (".png", "16 bits of colour", _png(96, 72, 16, 2, bytes(6 * 96 + 1) * 72)),
        (
            ".png",
            "16 bits with a clear value",
            _png(96, 72, 16, 0, bytes(2 * 96 + 1) * 72, (b"tRNS", b"\0\0")),
        ),
        (".png", "interlaced", _saved(scene.resize((9, 9)), ".png")),
        (".webp", "lossless", _saved(scene, ".webp", lossless=True)),
        (".bmp", "palette", _saved(palette, ".bmp")),
        (".bmp", "1 bit", _saved(scene.convert("1"), ".bmp")),
    ]
    return tuple(made)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, bits: int, colour: int, rows: bytes, *more: tuple[bytes, bytes]) -> bytes:
    """A PNG by hand: any size may stand in its header, whatever follows."""
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = [(b"IHDR", head), *more, (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in parts)


def _bombs() -> dict[str, tuple[str, Callable[[random.Random], bytes], str]]:
    """Name -> suffix, bytes, code: files that unpack to far more than they are."""

    def jpeg(chance: random.Random) -> bytes:
        data = bytearray(_saved(_scene(), ".jpg"))
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = struct.pack(">HH", chance.choice((20_000, 65_500)), 65_500)
        return bytes(data)

    def bmp(chance: random.Random) -> bytes:
        data = bytearray(_saved(_scene(), ".bmp"))
        data[18:26] = struct.pack("<ii", 30_000, chance.choice((30_000, -30_000)))
        return bytes(data)

    def gif(chance: random.Random) -> bytes:
        data = bytearray(_saved(_scene(), ".gif"))
        data[6:10] = struct.pack("<HH", 65_000, 65_000)
        return bytes(data)

    def webp(chance: random.Random) -> bytes:
        head = b"VP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + (16_000).to_bytes(3, "little") * 2
        body = b"WEBP" + head + _saved(_scene(), ".webp")[12:]
        return b"RIFF" + struct.pack("<I", len(body)) + body

    return {
        "png of 900 million pixels": (
            ".png",
            lambda _: _png(30_000, 30_000, 1, 0, bytes(3751) * 40),
            "LS2053",
        ),
        "png of 144 million": (".png", lambda _: _png(12_000, 12_000, 8, 2, bytes(99)), "LS2053"),
        "png of 2^31": (".png", lambda _: _png(2**31 - 1, 2**31 - 1, 8, 2, bytes(99)), ""),
        "png of no size": (".png", lambda _: _png(0, 0, 8, 2, bytes(99)), ""),
        "jpeg of billions": (".jpg", jpeg, "LS2053"),
        "bmp of 900 million": (".bmp", bmp, "LS2053"),
        "gif of billions": (".gif", gif, "LS2053"),
        "webp of 256 million": (".webp", webp, ""),
        "text that unpacks": (
            ".png",
            lambda _: _png(9, 9, 8, 2, bytes(28) * 9, (b"zTXt", b"a\0\0" + zlib.compress(bytes(2**26), 9))),
            "",
        ),
        "profile that unpacks": (
            ".png",
            lambda _: _png(9, 9, 8, 2, bytes(28) * 9, (b"iCCP", b"a\0\0" + zlib.compress(bytes(2**26), 9))),
            "",
        ),
        "far too many bytes for its size": (".png", lambda _: _png(9, 9, 8, 2, bytes(2**26)), ""),
    }


@cache
def _heavy() -> tuple[tuple[str, str, Callable[[], bytes]], ...]:
    """As many pixels as are allowed, in the modes that take most memory on their way."""
    side = int(MAX_PIXELS**0.5) - 8

    def png(bits: int, colour: int, width: int) -> Callable[[], bytes]:
        return lambda: _png(side, side, bits, colour, bytes(width * side + 1) * side)

    def saved(mode: str, suffix: str) -> Callable[[], bytes]:
        return lambda: _saved(Image.new(mode, (side, side)), suffix)

    return (
        (".png", "64 million in 16 bits of grey", png(16, 0, 2)),
        (".png", "64 million with alpha", png(8, 6, 4)),
        (".png", "64 million of grey with alpha", png(8, 4, 2)),
        (".png", "64 million in 16 bits of colour", png(16, 2, 6)),
        (".jpg", "64 million in CMYK", saved("CMYK", ".jpg")),
        (".gif", "64 million in a palette", saved("P", ".gif")),
        (".png", "64 million in one bit", png(1, 0, 1)),
        (".bmp", "64 million in a bitmap", saved("L", ".bmp")),
    )


NO_PICTURES = (
    b"<!DOCTYPE html><html><body>404</body></html>",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"PK\x03\x04", b"%PDF-1.7", b"II*\0\x08\0\0\0",
    b"8BPS\0\1", b"GIF89a", b"\x80\x04\x95", b"\0" * 100, b"RIFF\0\0\0\0WEBP", b"\0\0\0\x18ftypmp42",
    b"\0\0\0\x18ftypheic", b"BM", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"#!/bin/sh\n", b"", b" ",
    b"P6 9 9 255\n" + bytes(243), b"\0\0\1\0", b"\xff\x0a", b"SIMPLE  =",
)  # fmt: skip


def make(number: int, chance: random.Random) -> Case:
    suffix, name, data = chance.choice(originals())
    expected = frozenset[str]()
    way = chance.choice(
        ("bytes",) * 10 + ("cut", "cut", "suffix", "bomb", "none", "intact", "sizes", "twice")
    )
    if number % HEAVY == HEAVY - 1:
        suffix, name, large = _heavy()[number // HEAVY % len(_heavy())]
        data, way = large(), "as it is"
    elif way == "bytes":
        other = chance.choice(originals())[2]
        data, way = anyhow(data, other, chance)
    elif way == "cut":
        data = data[: int(len(data) * chance.uniform(0.3, 0.8))]
        if suffix in CUT_IS_SEEN and name == "plain":
            expected = REFUSED
    elif way == "suffix":
        suffix = chance.choice(
            (".jpg", ".png", ".webp", ".gif", ".bmp", ".tif", ".heic", ".jfif", ".PNG", ".apng")
        )
    elif way == "bomb":
        name = chance.choice([*_bombs()])
        suffix, build, code = _bombs()[name]
        data, expected = build(chance), frozenset((code,) if code else ())
    elif way == "none":
        data, name = chance.choice(NO_PICTURES), "no picture"
        expected = REFUSED
    elif way == "sizes":
        size = chance.choice(((1, 10_000), (10_000, 1), (7, 300), (8, 8), (8, 10_000), (1, 1)))
        data, suffix, name = _saved(Image.new("RGB", size), ".png"), ".png", f"{size[0]} x {size[1]}"
        expected = frozenset(("LS2056",)) if min(size) < MIN_SIDE else expected
    elif way == "twice":
        broken = (flipped, zeroed, cut, mutated)
        for _ in range(2):
            data = chance.choice(broken)(data, chance)
        data = spliced(data, noise(chance), chance)
    options = {
        "background": chance.choice(("white", "black", "#8040c0")),
        "on_bad": chance.choice(("stop", "skip")),
        "on_animation": chance.choice(("first", "skip")),
    }
    return Case({f"img{suffix}": data}, f"img{suffix}", f"{name} {suffix}: {way}", expected, options=options)


def run(case: Case, folder: Path) -> list[Problem]:
    path = case.write(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        found = _alone(path, case)
        found += _among_others(path, case)
    judge(found, case, whole_file=frozenset(problem.code for problem in found), names=[str(folder)])
    return found


def _alone(path: Path, case: Case) -> list[Problem]:
    found: list[Problem] = []
    try:
        image, picture = open_picture(path, background=case.options["background"])
    except BadPicture as bad:
        return [bad.problem]
    if image.mode != "RGB" or image.size != (picture.width, picture.height) or min(image.size) < MIN_SIDE:
        raise WrongAnswerError(f"a picture of mode {image.mode} and size {image.size}, {picture}")
    try:
        alpha = open_alpha(path)
    except BadPicture as bad:
        found.append(bad.problem)
    else:
        if alpha.mode != "L" or alpha.size != image.size:
            raise WrongAnswerError(f"{alpha.mode} {alpha.size} beside {image.size}")
    return found


def _among_others(path: Path, case: Case) -> list[Problem]:
    """As a run reads it: beside a sound one, so that what is left out is counted."""
    sound = path.with_name("sound.png")
    sound.write_bytes(originals()[1][2])
    examples = [
        Example({"image": each, "name": each.name, "caption": "x"}, Location(str(each)))
        for each in (path, sound)
    ]
    good, found = images.examine(examples, **case.options)
    bad = [problem for problem in found if problem.where and problem.where.file == str(path)]
    still = case.options["on_animation"] == "skip" and any(problem.code == "LS2411" for problem in found)
    if len(good) + len(bad) + still != len(examples):
        raise WrongAnswerError(f"{len(good)} usable and {len(bad)} named of {len(examples)}")
    if any((problem.severity == "error") != (case.options["on_bad"] == "stop") for problem in bad):
        raise WrongAnswerError(f"{case.options['on_bad']} and yet {bad}")
    return found
