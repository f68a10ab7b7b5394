"""What only a graphics card can show: each precision trains on it, and halves need less of its memory."""

import json

import pytest

from tests.contract.conftest import make_desk, tiny_base  # noqa: F401 - fixtures
from tests.families import full_size

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("optimizer", ["adamw", "adamw8bit"])
@pytest.mark.parametrize("precision", ["auto", "fp16", "bf16", "no"])
def test_every_precision_trains_and_repeats_on_the_card(make_desk, precision, optimizer):  # noqa: F811
    desk = make_desk()
    for output in ("one", "two"):
        config = desk.config(
            base_model="builtin:demo",
            output_dir=f"output/{output}",
            output_name="same",
            mixed_precision=precision,
            optimizer=optimizer,
        )
        done = desk.train(config)
        assert done.code == 0, done.text
        assert "on cuda" in done.out
    files = [desk.root / "output" / name / "same.safetensors" for name in ("one", "two")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_halves_need_at_most_two_thirds_of_the_memory_of_fp32(make_desk, tmp_path):  # noqa: F811
    desk = make_desk()
    base = full_size.write(tmp_path / "v1-5-pruned.safetensors")
    peaks = {}
    for precision in ("fp16", "no"):
        config = desk.config(
            base_model=str(base),
            mixed_precision=precision,
            output_dir=f"output/{precision}",
            resolution=512,
            batch_size=1,
            max_steps=3,
        )
        done = desk.train(config)
        assert done.code == 0, done.text
        lines = (desk.root / f"output/{precision}/events.jsonl").read_text(encoding="utf-8").splitlines()
        peaks[precision] = max(
            line["data"]["memory_gib"] for line in map(json.loads, lines) if line["type"] == "step"
        )
    print(f"peak memory at 512 px, batch 1: {peaks}")
    assert peaks["fp16"] <= 0.67 * peaks["no"]
