"""Copies, mirrored copies and crops are found; different pictures are left alone."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from lora_scripts.data.pixels import open_picture
from lora_scripts.doctor.alike import find_alike
from lora_scripts.doctor.looks import SIDE, look_at
from lora_scripts.doctor.windows import ALIKE, Windows, candidates
from tests.doctor.pictures import drawn, part, photo, save


def alike(folder, **settings):
    """What is found in a folder, by the stems of names."""
    paths = sorted(folder.iterdir())
    opened = [open_picture(path) for path in paths]
    grey = np.stack([look_at(image).grey for image, _ in opened])
    found = find_alike([picture for _, picture in opened], grey, **settings)
    names = [path.stem for path in paths]
    copies = {frozenset(names[place] for place in group) for group in found.copies}
    mirrored = {frozenset((names[one], names[other])) for one, other in found.mirrored}
    crops = {(names[one], names[other]): share for one, other, share in found.crops}
    return copies, mirrored, crops


def recompressed(image, quality):
    packed = io.BytesIO()
    image.save(packed, "JPEG", quality=quality)
    return Image.open(packed).convert("RGB")


CHANGES = {
    "smaller": lambda image: image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC),
    "worse": lambda image: recompressed(image, 40),
    "cut": lambda image: part(image, 0.05, 0.0, 0.0, 0.04),
    "cut_all_round": lambda image: part(image, 0.03, 0.03, 0.03, 0.03),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.08),
    "same": lambda image: image,
}


@pytest.mark.parametrize("make", [photo, drawn], ids=["photo", "drawn"])
def test_copies_are_found_however_they_were_made(tmp_path, make):
    pictures = {f"p{seed}.png": make(seed) for seed in range(12)}
    pictures |= {
        f"p{seed}_{name}.png": change(make(seed)) for seed, (name, change) in enumerate(CHANGES.items())
    }
    copies, mirrored, crops = alike(save(tmp_path / "data", pictures))
    assert copies == {frozenset((f"p{seed}", f"p{seed}_{name}")) for seed, name in enumerate(CHANGES)}
    assert not mirrored
    assert not crops


def test_different_pictures_are_left_alone(tmp_path):
    pictures = {f"d{seed}.png": drawn(seed, 1) for seed in range(40, 80)}
    pictures |= {f"p{seed}.png": photo(seed, 160, 128) for seed in range(40, 60)}
    assert alike(save(tmp_path / "data", pictures), crops=True) == (set(), set(), {})


def test_a_small_change_makes_another_picture(tmp_path):
    image = photo(1)
    other = image.copy()
    other.paste((250, 20, 20), (140, 100, 180, 140))
    copies, _, _ = alike(save(tmp_path / "data", {"a.png": image, "b.png": other}))
    assert not copies


def test_another_colour_makes_another_picture(tmp_path):
    image = Image.new("RGB", (256, 256), (240, 240, 240))
    image.paste((200, 60, 60), (60, 60, 200, 180))
    other = Image.new("RGB", (256, 256), (240, 240, 240))
    other.paste((60, 120, 76), (60, 60, 200, 180))  # as bright as the red
    copies, _, _ = alike(save(tmp_path / "data", {"a.png": image, "b.png": other}))
    assert not copies


def test_mirrored_pictures_are_pairs_of_their_own(tmp_path):
    pictures = {f"p{seed}.png": photo(seed) for seed in range(6)}
    pictures["m2.png"] = ImageOps.mirror(photo(2)).resize((200, 160), Image.Resampling.LANCZOS)
    copies, mirrored, _ = alike(save(tmp_path / "data", pictures))
    assert not copies
    assert mirrored == {frozenset(("p2", "m2"))}


def test_crops_are_looked_for_on_request(tmp_path):
    pictures = {f"p{seed}.png": photo(seed, 480, 400) for seed in range(6)}
    pictures["c3.png"] = part(photo(3, 480, 400), 0.2, 0.1, 0.12, 0.2)
    folder = save(tmp_path / "data", pictures)
    assert alike(folder) == (set(), set(), {})
    copies, mirrored, crops = alike(folder, crops=True)
    assert not copies
    assert not mirrored
    assert list(crops) == [("p3", "c3")]
    assert crops["p3", "c3"] == pytest.approx(0.68 * 0.7, abs=0.06)


def test_a_window_has_the_fingerprint_of_the_picture_cut_there():
    grey = np.asarray(photo(4).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float64)
    windows = Windows((0.5,))
    place = windows.stretches.index((0.5, 0.5))
    cut = np.repeat(np.repeat(grey[16:, 16:], 2, axis=0), 2, axis=1)
    whole = Windows((1.0,)).of(cut[None])[0, 0, 0]
    assert windows.of(grey[None])[0, place, place] @ whole == pytest.approx(1.0, abs=1e-5)


def test_the_fingerprint_is_a_cosine_transform():
    grey = np.asarray(photo(6).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float64)
    small = grey.reshape(16, 2, 16, 2).mean(axis=(1, 3))
    wanted = np.zeros((8, 8))
    for v in range(8):
        for u in range(8):
            down = np.cos(np.pi * (np.arange(16) + 0.5) * v / 16)
            across = np.cos(np.pi * (np.arange(16) + 0.5) * u / 16)
            lengths = np.sqrt((1 if v else 0.5) * (1 if u else 0.5)) / 8
            wanted[v, u] = (small * np.outer(down, across)).sum() * lengths * np.hypot(u, v) ** 0.5
    flat = wanted.ravel()[1:]
    assert Windows((1.0,)).of(grey[None])[0, 0, 0] == pytest.approx(flat / np.linalg.norm(flat), abs=1e-5)


def test_thousands_of_pictures_have_few_candidates():
    rng = np.random.default_rng(0)
    rough = rng.integers(0, 256, (3_000, 8, 8), dtype=np.uint8)
    grey = np.repeat(np.repeat(rough, 4, axis=1), 4, axis=2)
    grey[2_900] = grey[17]
    told = []
    found = [
        pair
        for part_of in candidates(grey, np.ones(3_000), progress=lambda *at: told.append(at))
        for pair in part_of
    ]
    pairs = {(pair.whole, pair.part) for pair in found if not pair.mirrored}
    assert {(17, 2_900), (2_900, 17)} <= pairs
    assert len(found) < 1000
    assert told[-1] == (3_000, 3_000)
    assert ALIKE < 1
