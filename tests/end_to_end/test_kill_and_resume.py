"""kill -9 at random moments, resumed each time: the finished LoRA has the bytes of the uninterrupted run."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest

from tests.contract.conftest import (  # noqa: F401 - fixtures
    ROOT,
    Desk,
    draw_pictures,
    environment,
    make_desk,
    tiny_base,
    write_csv,
)

KILLS = 10
OPTIONS = dict(
    max_steps=60,
    save_steps=2,
    batch_size=1,
    gradient_accumulation_steps=3,
    lora_dropout=0.1,
    lora_rank=8,
    lr_scheduler="cosine",
    warmup_steps=5,
    output_name="same",
    logging={"tensorboard": False},
    validation={"split": 0.1, "every_steps": 7, "timesteps": 1},
)


def attempt(desk: Desk, config, seconds: float | None) -> int:
    """Starts a run and kills it after ``seconds``; its exit code."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), "--config", str(config)],
        cwd=desk.root,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        _, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
    else:
        assert process.returncode == 0, err
    return process.returncode


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "adamw8bit"])
@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_killed_at_ten_random_moments_the_bytes_are_equal(make_desk, precision, optimizer):  # noqa: F811
    desk = make_desk()
    options = dict(OPTIONS, mixed_precision=precision, optimizer=optimizer)
    assert desk.train(desk.config("straight.yaml", output_dir="output/straight", **options)).code == 0
    config = desk.config("cut.yaml", output_dir="output/cut", **options)
    moments = random.Random(f"{precision}{optimizer}")
    killed = 0
    finished = desk.root / "output/cut/result.json"
    while killed < KILLS and not finished.exists():
        if attempt(desk, config, moments.uniform(3.0, 12.0)) != 0:
            killed += 1
    if not finished.exists():
        assert attempt(desk, config, None) == 0
    files = [
        desk.root / "output" / run / name
        for run in ("straight", "cut")
        for name in (
            "pytorch_lora_weights.safetensors",
            "same-step000030.safetensors",
            "same-best.safetensors",
        )
    ]
    for one, two in zip(files[:3], files[3:], strict=True):
        assert one.read_bytes() == two.read_bytes(), one.name
    print(f"{precision} {optimizer}: {killed} kills")
