from __future__ import annotations

import pytest
import torch

from lora_scripts.export.facts import ExportFacts
from tests.families import tiny


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tiny.write_folder(tmp_path_factory.mktemp("folder") / "tiny")


def make_lora(path, folder, seed=1, size=0.3):
    """A LoRA file with a visible effect on the tiny base."""
    from lora_scripts.adapters.attach import attach
    from lora_scripts.adapters.spec import AdapterSpec
    from lora_scripts.export.kohya import export_lora
    from tests.families.loaded import load

    model = load(folder)
    adapter = attach(model, AdapterSpec(4, 4.0), seed=seed)
    with torch.no_grad():
        for name, parameter in adapter.parameters.items():
            if ".lora_B." in name:
                generator = torch.Generator().manual_seed(seed + len(name))
                parameter.normal_(0, size, generator=generator)
    config = {"train_data_dir": "./pics", "base_model": str(folder), "lora_rank": 4, "seed": 3}
    facts = ExportFacts(path.stem, {**config, "output_dir": "./gone"}, trigger_words=("mystyle",), step=9)
    export_lora(path, model, adapter, facts)
    return path


@pytest.fixture(scope="session")
def lora(tmp_path_factory, folder):
    return make_lora(tmp_path_factory.mktemp("lora") / "style.safetensors", folder)


@pytest.fixture(scope="session")
def second_lora(tmp_path_factory, folder):
    return make_lora(tmp_path_factory.mktemp("lora") / "other.safetensors", folder, seed=7)
