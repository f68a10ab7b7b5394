from __future__ import annotations

import pytest
import torch

from lora_scripts.export.facts import ExportFacts
from tests.families import tiny

FACTS = ExportFacts(
    name="my_style",
    config={"learning_rate": 1e-4, "output_dir": "/home/me/secret", "cache_dir": "/tmp/c", "seed": 7},
    data={"pictures": 3},
    versions={"torch": "2"},
    trigger_words=("mystyle",),
    tag_frequency={"pics": {"a red house": 3}},
    step=100,
    total_steps=200,
    epoch=2,
    total_epochs=4,
    pictures=60,
    batches_per_epoch=15,
)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tiny.write_folder(tmp_path_factory.mktemp("folder") / "tiny")


@pytest.fixture
def load(folder):
    """A tiny base with a LoRA that has an effect: (model, adapter)."""
    from lora_scripts.adapters.attach import attach
    from lora_scripts.adapters.spec import AdapterSpec
    from tests.families.loaded import load

    def make(dtype=torch.float32, alpha=3.0, text=True, **options):
        model = load(folder, dtype=dtype)
        adapter = attach(model, AdapterSpec(4, alpha, **options), train_text_encoder=text, seed=1)
        with torch.no_grad():
            for name, parameter in adapter.parameters.items():
                if ".lora_B." in name:
                    parameter.normal_(0, 0.05, generator=torch.Generator().manual_seed(len(name)))
        return model, adapter

    return make


@pytest.fixture
def facts():
    return FACTS
