"""One picture file to RGB pixels, whole or not at all.

Pillow is lenient where training must not be: it clips 16-bit grey to white, shows the colours hidden under
transparency, ignores the camera's rotation and only warns of decompression bombs. Here each of these has
one answer, and a file that does not decode to its end is refused with a reason.
"""

from __future__ import annotations

import hashlib
import io
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np

# Importing the plug-ins here keeps Image.open from importing all of them, in several threads at once.
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageCms,
    ImageColor,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from ..core.problems import Location, Problem
from .damage import has_grey_tail, has_zeroed_data, lacks_scans
from .text_files import printable

_PLUGINS = (
    JpegImagePlugin,
    PngImagePlugin,
    WebPImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    AvifImagePlugin,
)
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "AVIF")
MAX_PIXELS = 64_000_000
MAX_BYTES = 512 * 2**20
MIN_SIDE = 8
_ENDINGS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "AVIF": (".avif",),
}
_BAND = 2_000_000
"""Pixels of a band."""
_LARGE = 16_000_000
_one_large = threading.Lock()
"""Held while a picture above ``_LARGE`` pixels is decoded, so that memory does not grow with the threads."""

# MAX_PIXELS is lower than Pillow's limit, and an error.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", message="Corrupt EXIF data", category=UserWarning)


@dataclass(frozen=True)
class Picture:
    """A usable picture: size in pixels after the camera's rotation, SHA-256 of the file's bytes, the codes of
    what is worth saying about it, and whether EXIF data had to turn it upright."""

    path: Path
    width: int
    height: int
    sha256: str
    notes: tuple[str, ...] = ()
    turned: bool = False


class BadPicture(Exception):  # noqa: N818 - it describes the picture
    """A picture that cannot be used, and why."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.code)
        self.problem = problem


def _bad(code: str, path: Path, **params: object) -> BadPicture:
    return BadPicture(Problem(code, {"name": printable(path.name), **params}, Location(str(path))))


def _kind(data: bytes) -> str | None:
    """What an unreadable file really is, by its first bytes; ``OURS`` if it should be readable."""
    start = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body", b"<script")):
        return "HTML"
    if data.startswith(b"version https://git-lfs"):
        return "LFS"
    if b"<svg" in start:
        return "SVG"
    if data[4:12] in (b"ftypavif", b"ftypavis"):
        return "OURS"
    if data[4:8] == b"ftyp":
        return "HEIC" if data[8:12] in (b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"heim") else "MP4"
    for kind, magics in {
        "OURS": (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"RIFF"),
        "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
        "JPEG XL": (b"\xff\x0a", b"\0\0\0\x0cJXL "),
        "JPEG 2000": (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"),
        "PSD": (b"8BPS",),
        "PDF": (b"%PDF",),
        "ICO": (b"\0\0\x01\0",),
        "ZIP": (b"PK\x03\x04",),
        "RAR": (b"Rar!",),
        "7z": (b"7z\xbc\xaf",),
    }.items():
        if data.startswith(magics):
            return kind
    return None


def _bytes_of(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise _bad("LS2057", path, reason="not a file")
        if size > MAX_BYTES:
            raise _bad("LS2059", path, megabytes=size // 2**20, limit=MAX_BYTES // 2**20)
        data = path.read_bytes()
    except OSError as error:
        raise _bad("LS2057", path, reason=error.strerror or type(error).__name__) from error
    if not data:
        raise _bad("LS2052", path)
    return data


def _opened(path: Path, data: bytes) -> ImageFile.ImageFile:
    """The picture's header, checked; no pixel is decoded yet."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        found = re.search(r"(\d+) pixels", str(error))
        megapixels = int(found[1]) / 1e6 if found else MAX_PIXELS / 1e6
        raise _bad("LS2053", path, megapixels=f"{megapixels:.0f}", limit=MAX_PIXELS // 10**6) from error
    except UnidentifiedImageError as error:
        kind = _kind(data)
        special = {"HTML": "LS2051", "LFS": "LS2058", "OURS": "LS2054", None: "LS2050"}
        raise _bad(special.get(kind, "LS2055"), path, format=kind, reason="header incomplete") from error
    except Exception as error:  # a damaged header makes Pillow raise anything
        raise _bad("LS2054", path, reason=_reason(error)) from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise _bad("LS2053", path, megapixels=f"{width * height / 1e6:.0f}", limit=MAX_PIXELS // 10**6)
    if min(width, height) < MIN_SIDE:
        raise _bad("LS2056", path, width=width, height=height, limit=MIN_SIDE)
    return image


def _reason(error: Exception) -> str:
    return printable(str(error), 120) or type(error).__name__


def _bands(size: tuple[int, int]) -> Iterator[tuple[int, int, int, int]]:
    """Boxes from top to bottom: what needs many bytes for a pixel needs them for a few rows at a time."""
    width, height = size
    rows = max(1, _BAND // width)
    for top in range(0, height, rows):
        yield 0, top, width, min(height, top + rows)


def _grey16(image: Image.Image) -> Image.Image:
    """16-bit grey to 8 bits by 65535 -> 255, rounded; ``convert`` would clip at 255."""
    clear = image.info.get("transparency")
    shades, opaque = Image.new("L", image.size), Image.new("L", image.size)
    for box in _bands(image.size):
        values = np.clip(np.asarray(image.crop(box)).astype(np.int64), 0, 65535)
        shades.paste(Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8)), box)
        opaque.paste(Image.fromarray(((values != clear) * 255).astype(np.uint8)), box)
    if isinstance(clear, int):
        shades.putalpha(opaque)
    return shades


def _laid_on(image: Image.Image, background: str) -> Image.Image:
    """RGB: what is transparent shows the background."""
    colour = ImageColor.getrgb(background)
    laid = Image.new("RGB", image.size)
    for box in _bands(image.size):
        part = image.crop(box).convert("RGBA")
        ground = Image.new("RGBA", part.size, colour)
        laid.paste(Image.alpha_composite(ground, part).convert("RGB"), box)
    return laid


def _through_profile(image: Image.Image, space: str = "CMYK") -> Image.Image | None:
    """CMYK or grey through its own colour profile, or None where it has none that works."""
    profile = image.info.get("icc_profile")
    if not profile:
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space.strip() != space:
            return None
        return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


def _to_rgb(image: Image.Image, background: str) -> tuple[Image.Image, list[str]]:
    notes: list[str] = []
    if image.mode.startswith("I"):
        image = _grey16(image)
    if image.mode == "CMYK":
        converted = _through_profile(image)
        if converted is None:
            notes.append("LS2063")
        image = converted or image
    elif image.mode == "L" and not image.has_transparency_data:
        image = _through_profile(image, space="GRAY") or image
    if image.has_transparency_data:
        return _laid_on(image, background), notes
    return image.convert("RGB"), notes


_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF 2.32, tag 0x0112: what brings each orientation upright."""


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:  # damaged EXIF says nothing about the pixels, which did decode
        return 1


def open_picture(path: Path, *, background: str = "white") -> tuple[Image.Image, Picture]:
    """The picture upright in RGB, transparency laid on ``background``, and what is known about its file.

    Of an animation the first frame. Raises ``BadPicture`` where the file is no picture, is damaged or cut
    off, has more than ``MAX_PIXELS`` pixels (found before they are decoded) or a side below ``MIN_SIDE``.
    """
    data = _bytes_of(path)
    image = _opened(path, data)
    notes: list[str] = []
    large = image.width * image.height > _LARGE
    with _one_large if large else nullcontext():
        try:
            kind = "JPEG" if image.format == "MPO" else str(image.format)
            if image.format != "MPO" and getattr(image, "is_animated", False):
                notes.append("LS2062")
            image.load()
            orientation = _orientation(image)
            rgb, more = _to_rgb(image, background)
            broken = kind == "JPEG" and (has_zeroed_data(data) or lacks_scans(data))
            if broken or has_grey_tail(rgb):
                notes.append("LS2410")
            if orientation in _UPRIGHT:
                rgb = rgb.transpose(_UPRIGHT[orientation])
        except Exception as error:  # decoders raise OSError, SyntaxError, ValueError, RuntimeError and more
            raise _bad("LS2054", path, reason=_reason(error)) from error
    if path.suffix.lower() not in _ENDINGS.get(kind, ()):
        notes.append("LS2061")
    digest = hashlib.sha256(data).hexdigest()
    turned = orientation in _UPRIGHT
    return rgb, Picture(path, rgb.width, rgb.height, digest, tuple(notes + more), turned)


def open_alpha(path: Path) -> Image.Image:
    """How opaque the picture is, upright, mode L: 255 where nothing shines through. Raises ``BadPicture``."""
    image = _opened(path, _bytes_of(path))
    try:
        image.load()
        orientation = _orientation(image)
        plain = _grey16(image) if image.mode.startswith("I") else image
        opaque = (
            plain.convert("RGBA").getchannel("A")
            if plain.has_transparency_data
            else Image.new("L", plain.size, 255)
        )
        return opaque.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else opaque
    except Exception as error:  # as in open_picture
        raise _bad("LS2054", path, reason=_reason(error)) from error
