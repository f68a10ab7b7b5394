"""A full-size Stable Diffusion 1.5 in one file trains on the processor and exports 192 modules."""

import pytest
from safetensors import safe_open

from tests.contract.conftest import Desk, draw_pictures, write_csv
from tests.families import full_size


@pytest.fixture(scope="module")
def full_desk(tmp_path_factory) -> Desk:
    root = tmp_path_factory.mktemp("full")
    write_csv(root / "pics" / "metadata.csv", draw_pictures(root / "pics", 4, ((256, 256),)))
    base = full_size.write(root / "v1-5-pruned.safetensors")
    yield Desk(root, base)
    base.unlink()


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_two_steps_at_256_px_on_the_processor(full_desk, precision):
    config = full_desk.config(
        output_dir=f"output/{precision}",
        output_name="full",
        resolution=256,
        batch_size=1,
        max_steps=2,
        mixed_precision=precision,
        validation={"split": 0},
    )
    done = full_desk.train(config)
    assert done.code == 0, done.text
    result = full_desk.result(f"output/{precision}")
    assert result["readback"]["layers"] == {"unet": 192}
    with safe_open(full_desk.root / f"output/{precision}/full.safetensors", "pt") as file:
        assert len(list(file.keys())) == 3 * 192
        assert file.metadata()["ss_sd_model_name"] == "v1-5-pruned.safetensors"
