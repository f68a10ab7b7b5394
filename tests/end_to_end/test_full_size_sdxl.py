"""A full-size Stable Diffusion XL in one file: told from its header, refused where it does not belong, loaded
through the memory map."""

import json
import subprocess
import sys

import pytest

from tests.contract.conftest import ROOT, Desk, draw_pictures, environment, write_csv
from tests.families import full_size_sdxl


@pytest.fixture(scope="module")
def full_desk(tmp_path_factory) -> Desk:
    root = tmp_path_factory.mktemp("full")
    write_csv(root / "pics" / "metadata.csv", draw_pictures(root / "pics", 4, ((64, 64),)))
    base = full_size_sdxl.write(root / "sd_xl_base_1.0.safetensors")
    yield Desk(root, base)
    base.unlink()


@pytest.mark.slow
def test_it_is_told_and_refused_from_the_header_alone(full_desk):
    """With no weights behind the header: it is a hole as large as they are."""
    with open(full_desk.base, "rb") as handle:
        length = 8 + int.from_bytes(handle.read(8), "little")
        handle.seek(0)
        header = handle.read(length)
    hollow = full_desk.root / "hollow.safetensors"
    with open(hollow, "wb") as handle:
        handle.write(header)
        handle.truncate(full_desk.base.stat().st_size)
    for family, code in (("sd15", 2), ("sdxl", 0), ("auto", 0)):
        config = full_desk.config(base_model=str(hollow), family=family, resolution=64)
        done = full_desk.cli("check", "--config", config)
        assert done.code == code, done.text
        said = "LS4008" in done.text and "holds Stable Diffusion XL" in done.text
        assert said is (family == "sd15")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_loading_needs_hardly_more_memory_than_is_kept(full_desk, dtype):
    done = subprocess.run(
        [sys.executable, "-m", "tests.families.memory_probe", str(full_desk.base), dtype],
        cwd=ROOT, env=environment(PYTHONPATH=f"{ROOT / 'src'}:{ROOT}"),
        text=True, capture_output=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    print(found)
    assert found["kept"] > 6.9e9
    assert found["peak"] <= 1.15 * found["kept"], found
    if dtype == "float16":  # nothing is converted but the VAE, so nothing else is copied
        assert found["peak"] < 0.2 * found["kept"], found


@pytest.mark.slow
def test_a_step_at_256_px_on_the_processor(full_desk):
    config = full_desk.config(
        output_dir="output/full", resolution=256, batch_size=1, max_steps=1, save_steps=1, lora_rank=2,
        mixed_precision="bf16", gradient_checkpointing=True, validation={"split": 0},
    )  # fmt: skip
    done = full_desk.train(config)
    assert done.code == 0, done.text
    print(done.text)
    assert full_desk.result("output/full")["readback"]["layers"] == {"unet": 722}
