"""Blur: told from drawings, dark pictures, soft backgrounds and even grounds."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter

from lora_scripts.doctor.looks import SIDE, edge_width, look_at, smooth, softness
from tests.doctor.pictures import blurred, drawn, photo


@pytest.mark.parametrize("sigma", [2.0, 3.0, 5.0])
def test_the_width_of_a_blurred_edge_is_measured(sigma):
    step = np.zeros((200, 200), np.float32)
    step[:, 100:] = 200
    image = Image.fromarray(np.round(smooth(step, sigma)).astype(np.uint8))
    width, steepness = edge_width(image)
    within, beyond = sigma**2 + 1, sigma**2 + 9  # variances after smoothing, and after smoothing again
    aside = np.log(2) / 2 * within  # of the median pixel among those at half the slope or more, squared
    ratio = np.sqrt(beyond / within) * np.exp(-aside / 2 * (1 / within - 1 / beyond))
    assert width == pytest.approx(np.sqrt(8 / (ratio**2 - 1) - 1), rel=0.15)
    assert sigma < width < 1.4 * sigma
    assert steepness == pytest.approx(200 / (np.hypot(sigma, 1) * np.sqrt(2 * np.pi)), rel=0.1)


def test_smoothing_is_a_gaussian():
    point = np.zeros((41, 41), np.float32)
    point[20, 20] = 1
    spread = smooth(point, 2.0)
    distance = np.hypot(*np.mgrid[-20:21, -20:21])
    wanted = np.exp(-(distance**2) / 8) / (8 * np.pi)
    assert np.abs(spread - wanted).max() < 2e-4


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("make", [photo, drawn], ids=["photo", "drawn"])
def test_what_is_out_of_focus_is_blurred_and_what_is_sharp_is_not(make, seed):
    image = make(seed)
    assert softness(image.convert("L")) < 0.9
    assert softness(blurred(image, 0.02).convert("L")) >= 1


def test_a_soft_background_is_no_blur():
    image = photo(3)
    soft = image.filter(ImageFilter.GaussianBlur(8))
    soft.paste(image.crop((120, 90, 200, 160)), (120, 90))
    assert softness(soft.convert("L")) < 0.9


def test_night_is_no_blur_and_a_blurred_night_is_one():
    night = ImageEnhance.Brightness(photo(5)).enhance(0.2)
    assert softness(night.convert("L")) < 0.9
    dim = blurred(ImageEnhance.Brightness(photo(5)).enhance(0.5), 0.02)
    assert softness(dim.convert("L")) >= 1


def test_a_flat_drawing_is_no_blur():
    image = Image.new("RGB", (400, 300), (250, 240, 200))
    image.paste((30, 90, 160), (100, 80, 260, 220))
    assert softness(image.convert("L")) < 0.5


@pytest.mark.parametrize("shape", [(8, 8), (300, 9), (600, 400)])
def test_nothing_is_said_of_a_picture_without_edges(shape):
    look = look_at(Image.new("RGB", shape, (90, 120, 200)))
    assert look.softness is None
    assert look.grey.shape == (SIDE, SIDE)


def test_the_size_of_the_file_does_not_change_the_verdict():
    image = photo(7, 900, 720)
    soft = blurred(image, 0.015)
    values = [softness(soft.resize((int(900 * s), int(720 * s))).convert("L")) for s in (1.0, 0.7, 0.5)]
    assert min(values) >= 1
    assert max(values) / min(values) < 1.25
