"""LoRAs of other ranks, names and bases in one merge: put together exactly, or refused with a report.

More of it: tests/toolbox/test_merge_pictures.py and test_merge.py (what does not fit is named, kinds do not
mix, an adapter of another base is refused), test_text_loras.py (one of another base changes nothing).
"""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_scripts.core.catalogue import message
from lora_scripts.core.problems import ProblemsError
from lora_scripts.toolbox.merge_pictures import merge_pictures
from tests.families import tiny
from tests.toolbox.test_merge_pictures import ORIGINAL, Q, pair, product


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    return tiny.write_single(tmp_path_factory.mktemp("single") / "tiny.safetensors")


def lora(path, layout, rank, seed, alpha=None):
    """One layer under each tool's names; returns what it adds to the weight."""
    down, up = pair(32, (32,), rank=rank, seed=seed)
    names = {
        "kohya": ("lora_unet_" + Q.replace(".", "_"), "lora_down", "lora_up"),
        "diffusers": (f"unet.{Q}", "lora_A", "lora_B"),
        "peft": (f"base_model.model.unet.{Q}", "lora_A", "lora_B"),
    }
    name, first, second = names[layout]
    tensors = {f"{name}.{first}.weight": down, f"{name}.{second}.weight": up}
    if alpha is not None:
        tensors[f"{name}.alpha"] = torch.tensor(float(alpha))
    save_file(tensors, str(path), {"format": "pt"})
    return product(down, up) * (1.0 if alpha is None else alpha / rank)


def test_ranks_alphas_and_names_differ_and_the_sum_is_exact(single, tmp_path):
    first = lora(tmp_path / "a.safetensors", "kohya", rank=4, seed=1, alpha=2)
    second = lora(tmp_path / "b.safetensors", "diffusers", rank=2, seed=2)
    third = lora(tmp_path / "c.safetensors", "kohya", rank=1, seed=3, alpha=1)
    texts = [str(tmp_path / name) for name in ("a.safetensors", "b.safetensors:0.5", "c.safetensors:-1")]
    merge_pictures(str(single), texts, tmp_path / "m.safetensors")
    before, after = load_file(single), load_file(tmp_path / "m.safetensors")
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed == [ORIGINAL[Q]]
    wanted = before[ORIGINAL[Q]] + first + 0.5 * second - third
    torch.testing.assert_close(after[ORIGINAL[Q]], wanted, atol=1e-5, rtol=1e-5)


def test_one_of_a_wider_base_is_refused_with_its_layers_and_nothing_is_written(single, tmp_path):
    lora(tmp_path / "ours.safetensors", "kohya", rank=4, seed=1)
    name = "lora_unet_" + Q.replace(".", "_")
    wider = {f"{name}.lora_down.weight": torch.ones(4, 640), f"{name}.lora_up.weight": torch.ones(640, 4)}
    save_file(wider, str(tmp_path / "wider.safetensors"))
    texts = [str(tmp_path / "ours.safetensors"), str(tmp_path / "wider.safetensors")]
    with pytest.raises(ProblemsError) as error:
        merge_pictures(str(single), texts, tmp_path / "m.safetensors")
    (problem,) = error.value.problems
    assert problem.code in {"LS4450", "LS4451"}
    assert "wider.safetensors" in message(problem)
    assert "to_q" in message(problem)
    assert not (tmp_path / "m.safetensors").exists()
