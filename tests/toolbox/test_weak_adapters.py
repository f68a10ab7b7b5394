"""An adapter so weak that half precision hides it from the logits: a wrong file is refused all the same."""

from __future__ import annotations

import pytest
import torch

from lora_scripts.core.problems import ProblemsError
from lora_scripts.export import gguf_adapter, merged_weights
from lora_scripts.toolbox.gguf_export import export_gguf
from lora_scripts.toolbox.merge import merge
from tests.export.text_loras import make
from tests.texts import small


@pytest.fixture(scope="module")
def weak(tmp_path_factory):
    base = small.write_model(tmp_path_factory.mktemp("base"))
    small.model().to(torch.bfloat16).save_pretrained(str(base))
    return make(tmp_path_factory.mktemp("weak"), base=base, dtype=torch.bfloat16).lora


def refused(call):
    with pytest.raises(ProblemsError) as error:
        call()
    return [problem.code for problem in error.value.problems]


def test_the_right_file_is_written(tmp_path, weak):
    done = merge(None, [f"{weak}:0.02"], tmp_path / "m")
    assert done.dtype == "bfloat16"
    assert done.weights < 1e-3
    assert export_gguf(None, [f"{weak}:0.02"], tmp_path / "a.gguf").weights < 1e-3
    assert export_gguf(None, [f"{weak}:0.02"], tmp_path / "m.gguf", merged=True).weights < 1e-3


@pytest.mark.parametrize("factor", [0.0, 0.5, -1.0])
def test_a_merge_of_another_strength_is_refused(tmp_path, weak, monkeypatch, factor):
    real = merged_weights.merged
    monkeypatch.setattr(merged_weights, "merged", lambda w, layer, s: real(w, layer, factor * s))
    assert refused(lambda: merge(None, [f"{weak}:0.02"], tmp_path / "m")) == ["LS4320"]
    gguf = tmp_path / "m.gguf"
    assert refused(lambda: export_gguf(None, [f"{weak}:0.02"], gguf, merged=True)) == ["LS4320"]
    assert list(tmp_path.iterdir()) == []


def test_a_layer_that_is_left_out_is_noticed(tmp_path, weak, monkeypatch):
    monkeypatch.setattr(
        merged_weights.MergedWeights,
        "__post_init__",
        _without(merged_weights.MergedWeights.__post_init__, "model.layers.1.mlp.up_proj.weight"),
    )
    assert refused(lambda: merge(None, [f"{weak}:0.02"], tmp_path / "m")) == ["LS4320"]


def _without(real, name):
    def changed(self):
        real(self)
        del self.plan[name]

    return changed


def test_an_adapter_file_of_another_strength_is_refused(tmp_path, weak, monkeypatch):
    real = gguf_adapter.adapter_tensors
    monkeypatch.setattr(gguf_adapter, "adapter_tensors", lambda a, b, c, s: real(a, b, c, 0.5 * s))
    assert refused(lambda: export_gguf(None, [f"{weak}:0.02"], tmp_path / "a.gguf")) == ["LS4320"]
    assert list(tmp_path.iterdir()) == []
