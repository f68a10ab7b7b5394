"""Packed layers: what tells two of them apart, and what stays as it was asked for."""

from __future__ import annotations

import pytest
import torch

from lora_scripts.families._base import Component
from lora_scripts.families._components import hash_of_module, shared_copy
from lora_scripts.families._quantised import fill

PART = Component("text_encoder_2", "transformers", "T5EncoderModel", storage="wide")
SIZES = {"d_model": 64, "d_kv": 64, "d_ff": 64, "num_layers": 1, "num_heads": 1, "vocab_size": 32}


def packed(bits: str, scale: float = 1.0, dtype: torch.dtype = torch.float32):
    from transformers import T5Config, T5EncoderModel

    torch.manual_seed(0)
    config = T5Config(**SIZES, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    state = {
        name: scale * tensor if ".SelfAttention.q." in name else tensor
        for name, tensor in T5EncoderModel(config).state_dict().items()
    }
    with torch.device("meta"):
        empty = T5EncoderModel(config)
    return fill(PART, empty, state, bits, device=torch.device("cpu"), dtype=dtype)


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_weights_that_differ_in_their_scale_alone_have_another_hash(bits):
    """Their packed numbers are equal; what a text encoder makes of captions is not."""
    one, again, other = packed(bits), packed(bits), packed(bits, scale=2.0)
    name = "encoder.block.0.layer.0.SelfAttention.q.weight"
    assert torch.equal(one.get_parameter(name), other.get_parameter(name))
    assert hash_of_module(one) == hash_of_module(again) != hash_of_module(other)


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_t5s_sums_are_not_packed_and_a_copy_shares_what_is(bits):
    module = packed(bits, dtype=torch.bfloat16)
    kinds = {name.rpartition(".")[2]: type(part).__name__ for name, part in module.named_modules()}
    assert kinds["wo"] == "Linear"
    assert kinds["q"] == kinds["wi_0"] == {"4bit": "Linear4bit", "8bit": "Linear8bitLt"}[bits]
    assert module.get_parameter("encoder.block.0.layer.1.DenseReluDense.wo.weight").dtype == torch.bfloat16
    twin = shared_copy(module)
    pairs = zip(module.named_parameters(), twin.named_parameters(), strict=True)
    assert all(one is other and a == b for (a, one), (b, other) in pairs)
    ids = torch.tensor([[3, 1, 2]])
    with torch.no_grad():
        assert torch.equal(module(ids)[0], twin(ids)[0])
    twin.train()
    assert not module.training
