"""A LoRA taken through every layout and back is the same: to the last bit in fp32, to 1e-3 in fp16.

Through the clients' own loaders: tests/export/test_readback.py (max diff 0 in fp32), test_peft_folder.py,
test_gguf_adapter.py; here the layouts among themselves.
"""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_scripts.toolbox.convert_layout import export_diffusers, export_kohya
from tests.families import tiny
from tests.toolbox.test_merge_pictures import CONV, TEXT, Q, wide


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.write_folder(tmp_path_factory.mktemp("folder") / "tiny")


NAMES = {Q: "lora_unet_" + Q.replace(".", "_"), CONV: "lora_unet_" + CONV.replace(".", "_"),
         TEXT: "lora_te_text_model_" + TEXT.replace(".", "_")}  # fmt: skip


def effect(path, name) -> torch.Tensor:
    tensors = load_file(path)
    down, up = (tensors[f"{name}.lora_{half}.weight"].double().flatten(1) for half in ("down", "up"))
    return up @ down * float(tensors[f"{name}.alpha"]) / down.shape[0]


@pytest.mark.parametrize(
    ("dtype", "allowed"), [(torch.float32, 0.0), pytest.param(torch.float16, 1e-3, marks=pytest.mark.long)]
)
def test_kohya_to_diffusers_and_back(dtype, allowed, folder, tmp_path):
    path, _ = wide(tmp_path / "x.safetensors", alpha=4.0)  # a power of two: scaling by it rounds nothing
    save_file(
        {name: tensor.to(dtype) for name, tensor in load_file(path).items()}, str(path), {"format": "pt"}
    )
    there = export_diffusers(str(folder), str(path), tmp_path / "there.safetensors")
    back = export_kohya(str(folder), str(there.path), tmp_path / "back.safetensors")
    assert back.proof.relative <= 1e-3
    for name in NAMES.values():
        before, after = effect(path, name), effect(back.path, name)
        assert float((before - after).abs().max()) <= allowed * float(before.abs().max())
