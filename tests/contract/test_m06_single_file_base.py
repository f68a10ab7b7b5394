"""M6: a single-file base in the original layout works, offline."""

import pytest

from tests.families.tiny import parts, write_single


@pytest.mark.long
def test_m06_a_single_file_trains_like_its_folder(make_desk):
    desk = make_desk()
    path = write_single(desk.root / "v1-5-pruned.safetensors", parts())
    quick = {"max_steps": 3, "resolution": 16, "validation": {"split": 0}, "logging": {"tensorboard": False}}
    for base, output in ((path.name, "output/file"), (str(desk.base), "output/folder")):
        done = desk.train(desk.config(base_model=base, output_dir=output, output_name="same", **quick))
        assert done.code == 0, done.text
    losses = [desk.result(output)["train_loss"] for output in ("output/file", "output/folder")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
