"""A lean layer keeps what its input was made from where that is kept anyway, and gives the same gradients."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import silu
from torch.utils.checkpoint import checkpoint

from lora_scripts.adapters import lean

INNER, OUTER, RANK, TOKENS = 32, 24, 4, 50


def product(gate, up):
    return silu(gate).mul_(up)


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(torch.bfloat16)


def grown(noted, *, change=None, dropout=0.0, recomputed=False):
    """Gradients of gate, up, A and B through a gate and a lean layer, and the bytes that the layer keeps
    beside gate, up and its own weights."""
    gate, up = (drawn(TOKENS, INNER, seed=seed).requires_grad_() for seed in (1, 2))
    weight = drawn(OUTER, INNER, seed=3)
    first, second = (
        drawn(*shape, seed=4).float().requires_grad_() for shape in ((RANK, INNER), (OUTER, RANK))
    )
    own = {tensor.untyped_storage().data_ptr() for tensor in (gate, up, weight)}
    seen, alive = {}, []

    def pack(tensor):
        alive.append(tensor)
        if tensor.untyped_storage().data_ptr() not in own:
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    def layer(gate, up):
        made = gate * torch.sigmoid(gate) * up
        made.data.copy_(product(gate.detach(), up.detach()))
        if noted:
            lean.made_from(made, product, gate, up)
        if change:
            made.add_(change)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            part = lean.Part(weight, None, first, second, 0.7, weight.dtype)
            return lean.linear(made, part, dropout=dropout)[0]

    torch.manual_seed(9)
    out = checkpoint(layer, gate, up, use_reentrant=True) if recomputed else layer(gate, up)
    (out.float() * drawn(TOKENS, OUTER, seed=6).float()).sum().backward()
    return [tensor.grad for tensor in (gate, up, first, second)], sum(seen.values())


@pytest.mark.parametrize("dropout", [0.0, 0.25])
@pytest.mark.parametrize("recomputed", [False, True])
def test_gradients_are_the_same_to_the_bit_and_the_input_is_not_kept(dropout, recomputed):
    wanted, before = grown(False, dropout=dropout, recomputed=recomputed)
    found, after = grown(True, dropout=dropout, recomputed=recomputed)
    assert all(torch.equal(f, w) for f, w in zip(found, wanted, strict=True))
    assert before - after == 2 * TOKENS * INNER


def test_what_was_written_to_is_kept_itself():
    wanted, before = grown(False, change=0.5)
    found, after = grown(True, change=0.5)
    assert all(torch.equal(f, w) for f, w in zip(found, wanted, strict=True))
    assert before == after
