"""Masks find their pictures, lie on them point for point, and whatever is wrong with them is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lora_scripts.core.problems import Location
from lora_scripts.data.buckets import place
from lora_scripts.data.images import examine
from lora_scripts.data.manifest import Example
from lora_scripts.data.masks import find_masks, fitted
from lora_scripts.data.pixels import open_alpha


def pictures(folder: Path, **images: Image.Image):
    examples = []
    for name, image in images.items():
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
        examples.append(Example({"image": path, "name": f"{name}.png", "caption": "x"}, Location("m.csv", 1)))
    return examine(examples)[0]


def half(width: int = 64, height: int = 64, mode: str = "RGBA") -> Image.Image:
    image = Image.new(mode, (width, height), (200, 10, 10, 0))
    image.paste((200, 10, 10, 255), (0, 0, width // 2, height))
    return image


def test_alpha_is_a_mask_where_something_is_transparent(tmp_path: Path) -> None:
    found = pictures(tmp_path, a=half(), b=Image.new("RGB", (64, 64)))
    masks, problems = find_masks(found, "alpha")
    assert list(masks) == ["a.png"]
    assert problems == []
    weights = fitted(masks["a.png"].open(), place([(64, 64)], resolution=64, step=8)[0], 8)
    assert weights.dtype == np.float32
    assert (weights[:, :4] == 1).all()
    assert (weights[:, 4:] == 0).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_alpha_is_turned_as_its_picture_is(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.png"
    half(64, 32).save(path, exif=exif)
    from PIL import ImageOps

    with Image.open(path) as image:
        wanted = ImageOps.exif_transpose(image).getchannel("A")
    assert open_alpha(path).tobytes() == wanted.tobytes()


def test_latents_get_the_mean_over_their_area(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 256, (64, 64), dtype=np.uint8)
    weights = fitted(Image.fromarray(values), place([(64, 64)], resolution=64, step=8)[0], 8)
    wanted = values.reshape(8, 8, 8, 8).mean((1, 3)) / 255
    assert np.abs(weights - wanted).max() < 1 / 255


def test_a_mask_of_another_size_lies_on_the_same_part(tmp_path: Path) -> None:
    placement = place([(200, 100)], resolution=64, step=8)[0]
    large = half(200, 100).getchannel("A")
    small = half(100, 50).getchannel("A")
    assert np.abs(fitted(large, placement, 8) - fitted(small, placement, 8)).max() < 0.05


def test_masks_of_a_folder_go_by_name(tmp_path: Path) -> None:
    found = pictures(tmp_path / "data", a=half(), b=half(), c=half())
    masks = tmp_path / "masks"
    (masks / "10_x").mkdir(parents=True)
    half().getchannel("A").resize((32, 32)).save(masks / "A.jpg")
    half().getchannel("A").save(masks / "10_x" / "b.webp", lossless=True)
    usable, problems = find_masks(found, str(masks))
    assert {name: mask.path.name for name, mask in usable.items()} == {"a.png": "A.jpg", "b.png": "b.webp"}
    assert [(p.code, p.params["names"]) for p in problems] == [("LS2421", "c.png")]


def test_what_is_wrong_with_masks_is_said_at_once(tmp_path: Path) -> None:
    found = pictures(tmp_path / "data", a=half(), b=half(), c=half(), d=half())
    masks = tmp_path / "masks"
    masks.mkdir()
    Image.new("L", (64, 64), 0).save(masks / "a.png")
    Image.new("L", (64, 32), 255).save(masks / "b.png")
    (masks / "c.png").write_bytes(b"no picture")
    Image.new("L", (64, 64), 255).save(masks / "d.png")
    usable, problems = find_masks(found, str(masks))
    assert sorted(p.code for p in problems) == ["LS2050", "LS2422", "LS2424"]
    assert "d.png" not in usable, "a white mask is none"
    assert [p.code for p in find_masks(found, str(tmp_path / "none"))[1]] == ["LS2420"]
    clear = pictures(tmp_path / "clear", a=Image.new("RGBA", (64, 64), (0, 0, 0, 0)))
    assert [p.code for p in find_masks(clear, "alpha")[1]] == ["LS2422"]
