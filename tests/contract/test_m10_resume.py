"""M10: training resumes from the last checkpoint after an interruption."""

import pytest

from tests.faults.conftest import start, wait_for


@pytest.mark.long
def test_m10_an_interrupted_run_ends_with_the_same_bytes(make_desk):
    """Killed outright; the gentler ends are in tests/faults (4 to 6)."""
    desk = make_desk()
    options = dict(max_steps=14, save_steps=3, lora_dropout=0.1, gradient_accumulation_steps=3, batch_size=2)
    done = desk.train(desk.config(output_dir="output/straight", output_name="same", **options))
    assert done.code == 0, done.text
    config = desk.config("cut.yaml", output_dir="output/cut", output_name="same", **options)
    process = start(desk, config)
    wait_for(desk.root / "output/cut/checkpoints/step-000003/manifest.json", process)
    process.kill()
    process.communicate(timeout=60)
    again = desk.train(config, "--resume")
    assert again.code == 0, again.text
    assert "going on from step-" in again.out
    files = [desk.root / "output" / run / "pytorch_lora_weights.safetensors" for run in ("straight", "cut")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.long
def test_m10_a_finished_run_is_refused_and_overwrite_moves_it_aside(make_desk):
    finished_and_refused(make_desk(), "my_style")


def test_m10_a_finished_text_run_is_refused_and_overwrite_moves_it_aside(make_text_desk):
    finished_and_refused(make_text_desk(), "voice")


def finished_and_refused(desk, name):
    config = desk.config(max_steps=2)
    assert desk.train(config).code == 0
    refused = desk.train(config)
    assert refused.code == 2
    assert "LS5002" in refused.err
    again = desk.train(config, "--overwrite")
    assert again.code == 0, again.text
    assert (desk.root / "output" / f"{name}.old-1" / "result.json").exists()


@pytest.mark.long
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
