"""Decoding ahead: order, batches' shapes, and that few pictures are in memory whatever their number."""

from __future__ import annotations

import threading

import pytest
from PIL import Image

from lora_scripts.core.problems import Problem
from lora_scripts.labeling.ahead import LONGEST, Waiting, alike, by_shape, decoded, look
from tests.labeling.conftest import draw


def test_pictures_are_sorted_by_their_upright_shape(tmp_path):
    draw(tmp_path, 3)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (48, 32)).save(tmp_path / "turned.jpg", exif=exif)
    (tmp_path / "no.png").write_bytes(b"no picture")
    found = by_shape([(path.name, path) for path in tmp_path.iterdir()])
    assert [(one.name, one.width, one.height) for one in found] == [
        ("no.png", 0, 0),
        ("img002.png", 32, 48),
        ("turned.jpg", 32, 48),
        ("img000.png", 32, 32),
        ("img001.png", 48, 32),
    ]


def test_what_goes_into_one_batch(tmp_path):
    square = Waiting("a", tmp_path, 100, 100)
    assert alike(square, Waiting("b", tmp_path, 110, 100))
    assert not alike(square, Waiting("b", tmp_path, 140, 100))
    assert not alike(square, Waiting("b", tmp_path, 150, 150))
    assert not alike(square, Waiting("b", tmp_path))


def test_large_pictures_are_made_smaller_at_once_and_bad_ones_say_why(tmp_path):
    Image.new("L", (LONGEST * 2, 40)).save(tmp_path / "wide.png")
    image = look(tmp_path / "wide.png")
    assert isinstance(image, Image.Image)
    assert (image.size, image.mode) == ((LONGEST, 20), "RGB")
    (tmp_path / "bad.png").write_bytes(b"\x89PNG nothing")
    problem = look(tmp_path / "bad.png")
    assert isinstance(problem, Problem)
    assert problem.code == "LS2054"


def test_no_more_than_asked_for_are_in_memory(tmp_path):
    alive, most, lock = 0, 0, threading.Lock()

    class Counted:
        def __init__(self) -> None:
            nonlocal alive, most
            with lock:
                alive += 1
                most = max(most, alive)

        def __del__(self) -> None:
            nonlocal alive
            with lock:
                alive -= 1

    many = (Waiting(str(number), tmp_path) for number in range(5000))
    names = [one.name for one, _ in decoded(many, lambda: 7, lambda path: Counted())]
    assert names == [str(number) for number in range(5000)]
    assert most <= 7 + 2


def test_leaving_early_waits_for_what_is_in_hand_only(tmp_path):
    begun = []

    def slow(path):
        begun.append(path)
        return Image.new("RGB", (8, 8))

    stream = decoded((Waiting(str(n), tmp_path) for n in range(10**6)), lambda: 5, slow)
    next(stream)
    stream.close()
    assert len(begun) <= 6


@pytest.mark.parametrize("count", [0, 1])
def test_short_folders(tmp_path, count):
    many = [Waiting(str(number), tmp_path) for number in range(count)]
    assert len(list(decoded(many, lambda: 3, lambda path: Image.new("RGB", (8, 8))))) == count
