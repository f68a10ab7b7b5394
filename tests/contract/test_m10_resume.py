"""M10: training resumes from the last checkpoint after an interruption."""

import signal
import subprocess
import sys
import time

import pytest

from tests.contract.conftest import ROOT, environment


def start(desk, config):
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), "--config", str(config)], cwd=desk.root, env=environment(),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def wait_for(path, process, seconds=120):
    for _ in range(seconds * 20):
        if path.exists():
            return
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.05)
    raise AssertionError(f"{path} did not appear")


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_m10_an_interrupted_run_ends_with_the_same_bytes(make_desk, number, code):
    desk = make_desk()
    options = dict(max_steps=14, save_steps=3, lora_dropout=0.1, gradient_accumulation_steps=3, batch_size=2)
    done = desk.train(desk.config(output_dir="output/straight", output_name="same", **options))
    assert done.code == 0, done.text
    config = desk.config("cut.yaml", output_dir="output/cut", output_name="same", **options)
    process = start(desk, config)
    wait_for(desk.root / "output/cut/checkpoints/step-000003/manifest.json", process)
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == code, out
    assert "Traceback" not in out
    again = desk.train(config, "--resume")
    assert again.code == 0, again.text
    assert "going on from step-" in again.out
    files = [desk.root / "output" / run / "pytorch_lora_weights.safetensors" for run in ("straight", "cut")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_m10_a_finished_run_is_refused_and_overwrite_moves_it_aside(make_desk):
    desk = make_desk()
    config = desk.config(max_steps=2)
    assert desk.train(config).code == 0
    refused = desk.train(config)
    assert refused.code == 2
    assert "LS5002" in refused.err
    again = desk.train(config, "--overwrite")
    assert again.code == 0, again.text
    assert (desk.root / "output" / "my_style.old-1" / "result.json").exists()


def test_m10_another_experiment_is_refused_with_what_differs(make_desk):
    desk = make_desk()
    process = start(desk, desk.config(max_steps=400, save_steps=2))
    wait_for(desk.root / "output/my_style/checkpoints/step-000002/manifest.json", process)
    process.kill()
    process.communicate()
    refused = desk.train(desk.config(max_steps=400, save_steps=2, lora_rank=8))
    assert refused.code == 2
    assert "lora_rank: 4 → 8" in refused.err
    harmless = desk.train(desk.config(max_steps=6, save_steps=3))
    assert harmless.code == 0, harmless.text


def test_m10_a_damaged_checkpoint_is_passed_over_loudly(make_desk):
    desk = make_desk()
    config = desk.config(max_steps=300, save_steps=2)
    process = start(desk, config)
    wait_for(desk.root / "output/my_style/checkpoints/step-000006/manifest.json", process)
    process.kill()
    process.communicate()
    newest = max((desk.root / "output/my_style/checkpoints").glob("step-*"))
    weights = newest / "adapter.safetensors"
    data = bytearray(weights.read_bytes())
    data[-3] ^= 1
    weights.write_bytes(data)
    again = desk.train(config, "--set", "max_steps=12")
    assert again.code == 0, again.text
    assert "LS5005" in again.out
    assert newest.name in again.out
    assert not newest.exists()
    assert list(newest.parent.glob(f"damaged-*-{newest.name}")), "set aside, not deleted"
