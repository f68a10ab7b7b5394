"""Row 28: forty pictures that are damaged, odd or none, each named with its reason; nothing starts with them
unless the configuration says that they are to be left out, and then they are counted."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lora_scripts.cli import main
from lora_scripts.config.load import from_values
from lora_scripts.core.catalogue import LANGUAGES, render
from lora_scripts.core.problems import errors
from lora_scripts.preflight.checks.dataset import check_pictures
from tests.fuzz.pictures import _bombs, _chunk, _png, _saved, _scene, originals

SOUND = 6
# pytest forgets the filter that the program sets when it is imported.
pytestmark = pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")


@cache
def _original(suffix: str, name: str) -> bytes:
    return next(data for ending, kind, data in originals() if (ending, kind) == (suffix, name))


def _half(suffix: str, name: str = "plain") -> bytes:
    data = _original(suffix, name)
    return data[: len(data) // 2]


def _bit(suffix: str, at: float) -> bytes:
    data = bytearray(_original(suffix, "plain"))
    data[int(len(data) * at)] ^= 0x10
    return bytes(data)


def _bomb(name: str) -> bytes:
    import random

    return _bombs()[name][1](random.Random(1))


def _photo(**options: object) -> bytes:
    rng = np.random.default_rng(3)
    noise = Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    noise.resize((320, 240), Image.Resampling.BICUBIC).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def _zeroed() -> bytes:
    data = bytearray(_photo(quality=85))
    data[len(data) // 2 : len(data) // 2 + 200] = bytes(200)
    return bytes(data)


REFUSED: dict[str, tuple[str, Callable[[], bytes]]] = {
    "empty.jpg": ("LS2052", lambda: b""),
    "page.png": ("LS2051", lambda: b"<!DOCTYPE html><html>403</html>"),
    "page2.jpg": ("LS2051", lambda: b"\xef\xbb\xbf\n<html><body>login</body></html>"),
    "lfs.png": ("LS2058", lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
    "text.png": ("LS2050", lambda: b"not a picture at all"),
    "zeros.jpg": ("LS2050", lambda: bytes(4000)),
    "svg.png": ("LS2055", lambda: b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>"),
    "pdf.jpg": ("LS2055", lambda: b"%PDF-1.7\n1 0 obj"),
    "zip.png": ("LS2055", lambda: b"PK\x03\x04" + bytes(60)),
    "psd.png": ("LS2055", lambda: b"8BPS\0\1" + bytes(60)),
    "tiff.png": ("LS2055", lambda: _saved(_scene(), ".tif")),
    "tiff.tif": ("LS2055", lambda: _saved(_scene(), ".tif")),
    "heic.jpg": ("LS2055", lambda: b"\0\0\0\x18ftypheic" + bytes(60)),
    "video.png": ("LS2055", lambda: b"\0\0\0\x18ftypmp42" + bytes(60)),
    "icon.png": ("LS2055", lambda: b"\0\0\1\0\1\0" + bytes(60)),
    "head.png": ("LS2054", lambda: b"\x89PNG\r\n\x1a\n"),
    "head.jpg": ("LS2054", lambda: b"\xff\xd8\xff\xe0\0\x10JFIF\0"),
    "half.jpg": ("LS2054", lambda: _half(".jpg")),
    "half.png": ("LS2054", lambda: _half(".png")),
    "half.webp": ("LS2054", lambda: _half(".webp")),
    "half.bmp": ("LS2054", lambda: _half(".bmp")),
    "half.avif": ("LS2054", lambda: _half(".avif")),
    "half.gif": ("LS2054", lambda: _half(".gif")),
    "bit.png": ("LS2054", lambda: _bit(".png", 0.5)),
    "bomb.png": ("LS2053", lambda: _bomb("png of 900 million pixels")),
    "bomb144.png": ("LS2053", lambda: _bomb("png of 144 million")),
    "bomb.jpg": ("LS2053", lambda: _bomb("jpeg of billions")),
    "bomb.gif": ("LS2053", lambda: _bomb("gif of billions")),
    "bomb.bmp": ("LS2053", lambda: _bomb("bmp of 900 million")),
    "thin.png": ("LS2056", lambda: _saved(Image.new("RGB", (1, 10_000)), ".png")),
    "tiny.png": ("LS2056", lambda: _saved(Image.new("RGB", (7, 300)), ".png")),
}
"""File -> what is said of it, and its bytes: nothing can be learnt from any of these."""
ODD: dict[str, tuple[str, Callable[[], bytes]]] = {
    "zeroed.jpg": ("LS2410", _zeroed),
    "closed.jpg": ("LS2410", lambda: (data := _photo(quality=85))[: len(data) // 2] + b"\xff\xd9"),
    "renamed.jpg": ("LS2061", lambda: _original(".png", "text and profile")),
    "cmyk.jpg": ("LS2063", lambda: _original(".jpg", "cmyk")),
    "moving.gif": ("LS2062", lambda: _original(".gif", "moving")),
    "moving.webp": ("LS2062", lambda: _original(".webp", "moving")),
    "small.png": ("LS2064", lambda: _saved(Image.new("RGB", (8, 8), (1, 2, 3)), ".png")),
    "long.png": ("LS2065", lambda: _saved(Image.new("RGB", (1600, 100), (4, 5, 6)), ".png")),
    "twin.png": ("LS2066", lambda: _png(40, 40, 8, 2, bytes(121) * 40)),
    "twin2.png": ("LS2066", lambda: _png(40, 40, 8, 2, bytes(121) * 40)),
}
"""What is used all the same, and named."""
SILENT: dict[str, Callable[[], bytes]] = {
    "deep.png": lambda: _original(".png", "16 bits"),
    "clear.png": lambda: _original(".png", "palette with clear colours"),
    "grey.png": lambda: _original(".png", "grey and clear"),
    "turned.jpg": lambda: _original(".jpg", "turned"),
    "after.png": lambda: _original(".png", "clear") + _chunk(b"tEXt", b"a\0b"),
}
"""What is converted without a word; what each becomes is tested where pictures are read."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("odd") / "pics"
    place.mkdir()
    made = {name: build for name, (_, build) in {**REFUSED, **ODD}.items()} | SILENT
    for number in range(SOUND):
        made[f"sound{number}.png"] = lambda number=number: _saved(
            Image.new("RGB", (128, 128), (number, 9, 9)), ".png"
        )
    for name, build in made.items():
        (place / name).write_bytes(build())
    rows = "".join(f"{name},a picture called {name.partition('.')[0]}\n" for name in sorted(made))
    (place / "metadata.csv").write_text("file_name,text\n" + rows, encoding="utf-8")
    return place


def checked(folder: Path, **keys: object):
    values = {
        "train_data_dir": str(folder),
        "base_model": "builtin:demo",
        "output_dir": str(folder.parent / "out"),
    }
    return check_pictures(from_values({**values, **keys}, "c.yaml"), 128, 8)


def test_28_the_corpus_has_forty_kinds() -> None:
    assert len(REFUSED) + len(ODD) + len(SILENT) >= 40


def test_28_each_is_named_once_with_its_reason(folder: Path) -> None:
    report, problems = checked(folder, validation={"split": 0})
    wrong = {Path(problem.where.file).name: problem.code for problem in errors(problems) if problem.where}
    assert wrong == {name: code for name, (code, _) in REFUSED.items()}
    assert len(errors(problems)) == len(REFUSED)
    for problem in errors(problems):
        assert problem.where is not None
        for language in LANGUAGES:
            assert Path(problem.where.file).name in render(problem, language)
    for name, (code, _) in ODD.items():
        told = [str(dict(problem.params)) for problem in problems if problem.code == code]
        assert any(name in each for each in told), f"{name} is not named by {code}"
    for name in SILENT:
        assert not any(f"{name}" in str(dict(problem.params)) for problem in errors(problems))
    assert report.left_out == len(REFUSED)


def test_28_a_run_does_not_start_with_them(folder: Path, capsys, tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    output = tmp_path / "out"
    config.write_text(
        f"train_data_dir: {folder}\nbase_model: builtin:demo\noutput_dir: {output}\n", encoding="utf-8"
    )
    assert main.run(["train", "--config", str(config)]) == 3
    said = capsys.readouterr().err
    assert all(name in said for name in REFUSED)
    assert "Traceback" not in said
    assert not (output / "result.json").exists()
    assert not list(output.glob("**/*.safetensors"))


def test_28_left_out_and_counted_where_the_configuration_says_so(
    folder: Path, capsys, tmp_path: Path
) -> None:
    report, problems = checked(folder, on_bad_image="skip", validation={"split": 0})
    usable = SOUND + len(ODD) + len(SILENT)
    assert errors(problems) == []
    assert (report.left_out, report.used) == (len(REFUSED), usable)
    named = {
        Path(problem.where.file).name
        for problem in problems
        if problem.where and problem.severity == "warning"
    }
    assert REFUSED.keys() <= named
    assert f"left out: {len(REFUSED)}" in report.lines()[0]
    config = tmp_path / "c.yaml"
    text = f"train_data_dir: {folder}\nbase_model: builtin:demo\noutput_dir: {tmp_path / 'out'}\n"
    config.write_text(text + "on_bad_image: skip\n", encoding="utf-8")
    assert main.run(["check", "--config", str(config)]) == 0
    assert f"left out: {len(REFUSED)}" in capsys.readouterr().out


def test_28_animations_are_left_out_and_counted_on_request(folder: Path) -> None:
    report, problems = checked(folder, on_bad_image="skip", on_animation="skip", validation={"split": 0})
    (told,) = [problem for problem in problems if problem.code == "LS2411"]
    assert told.params["count"] == 2
    assert report.used == SOUND + len(ODD) + len(SILENT) - 2
