"""The whole way on an NVIDIA card: load, train a step, export, read back, draw."""

from __future__ import annotations

import pytest
import torch

from lora_scripts.adapters.attach import attach
from lora_scripts.adapters.spec import AdapterSpec
from lora_scripts.export.facts import ExportFacts
from lora_scripts.export.kohya import export_lora
from lora_scripts.export.readback import read_back
from lora_scripts.families import _source
from lora_scripts.families._base import Draw
from lora_scripts.toolbox.pictures import make_pictures


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", ["folder", "single"])
def test_a_step_on_the_card_ends_in_a_file_that_reads_back(request, tmp_path, layout, dtype):
    source = _source.resolve(str(request.getfixturevalue(layout)))
    family = _source.find("auto", source)
    model = family.load(source, device="cuda", dtype=dtype)
    adapter = attach(model, AdapterSpec(4, 4.0), train_text_encoder=True, seed=1)
    generator = torch.Generator().manual_seed(1)
    item = {"latents": torch.randn((8, 8, 8), generator=generator), **family.probe_text(model, generator)}
    batch = family.collate(model, [item], [Draw(1)])
    optimizer = torch.optim.AdamW(adapter.parameters.values(), lr=1e-3)
    with torch.autocast("cuda", dtype=dtype, enabled=dtype is not torch.float32):
        loss = (family.predict(model, batch) - family.target(model, batch)).square().mean()
    loss.backward()
    optimizer.step()
    export_lora(tmp_path / "x.safetensors", model, adapter, ExportFacts("x", {}))
    assert sum(read_back(tmp_path / "x.safetensors", model, adapter).layers.values()) == 84
    assert make_pictures(model, ["a red house"], steps=1, width=16, height=16)[0].size == (16, 16)
