"""Layers whose forward pass is replaced compute what the library's compute, forward and backward."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from lora_scripts.families import _lean_layers, _lean_rotary
from lora_scripts.families._lean_layers import make_lean
from tests.texts import small

COUNTS = {"llama": 9, "qwen3": 13, "gemma": 7, "gemma2": 11, "glm": 5, "phi3": 7, "qwen3_moe": 11}
"""model_type -> layers that are replaced in the tiny model of two blocks. Norms: two a block and one at the
end; SiLU gates: GLM's and Phi's are one fused layer, Gemma's is another function, experts are no layers of
their own; attention: GLM rotates other pairs."""


def gradient(model: torch.nn.Module, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    inputs = inputs.clone().requires_grad_()
    logits = model(inputs_embeds=inputs, use_cache=False).logits
    weights = torch.linspace(-1, 1, logits.numel()).view_as(logits).to(logits.dtype)
    (logits * weights).sum().backward()
    assert inputs.grad is not None
    return logits.detach(), inputs.grad


@pytest.mark.parametrize("kind", COUNTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_and_gradients_are_the_librarys(kind, dtype):
    model = small.model(kind).to(dtype).requires_grad_(False)
    drawn = torch.Generator().manual_seed(0)
    inputs = torch.randn((1, 12, 64), generator=drawn).to(dtype)
    before = gradient(model, inputs)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert make_lean(model) == COUNTS[kind]
    after = gradient(model, inputs)
    for lean, own in zip(after, before, strict=True):
        allowed = 1e-5 if dtype == torch.float32 else 0.05
        assert (lean - own).float().norm() <= allowed * own.float().norm()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, weights[name])


@pytest.mark.parametrize("gemma", [False, True])
def test_the_norms_gradient_is_that_of_its_formula(gemma):
    drawn = torch.Generator().manual_seed(0)
    x, weight = torch.randn((3, 7, 16), generator=drawn), torch.randn(16, generator=drawn)
    x, weight = x.double().requires_grad_(), weight.double()
    got = _lean_layers._noted_norm(x.float(), weight.float(), 1e-5, gemma)
    expected = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * (weight + 1 if gemma else weight)
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=1e-5)
    factors = torch.randn(got.shape, generator=drawn)
    (lean,) = torch.autograd.grad((got * factors).sum(), x)
    (own,) = torch.autograd.grad((expected * factors).sum(), x)
    torch.testing.assert_close(lean, own, rtol=0, atol=1e-5)


def test_another_formula_is_left_alone():
    class OddRMSNorm(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(16))
            self.variance_epsilon = 1e-5

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon).square()

    odd = OddRMSNorm()
    assert make_lean(odd) == 0
    assert "forward" not in vars(odd)


def test_less_is_kept_for_the_backward_pass():
    def kept(model: torch.nn.Module) -> int:
        seen: dict[int, int] = {}
        own = {tensor.data_ptr() for tensor in model.parameters()}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                seen[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
            return tensor

        alive: list[torch.Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            out = model(inputs_embeds=torch.randn(1, 64, 64).bfloat16().requires_grad_(), use_cache=False)
        assert out.logits.requires_grad
        return sum(seen.values())

    model = small.model("llama").bfloat16().requires_grad_(False)
    before = kept(model)
    make_lean(model)
    assert kept(model) < 0.75 * before


def turned(kind: str, width: int, dtype: torch.dtype = torch.float32) -> tuple[list[torch.Tensor], ...]:
    """Queries and keys after the library's rotation and after ours, and their gradients."""
    attention = next(m for m in small.model(kind).modules() if type(m).__name__.endswith("Attention"))
    forward = _lean_rotary.forward_of(attention)
    assert forward is not None
    drawn = torch.Generator().manual_seed(0)
    parts = [torch.randn((1, heads, 5, 16), generator=drawn).to(dtype) for heads in (4, 2)]
    # Unlike halves: the formula does not need them to be equal.
    cos, sin = (torch.randn((1, 5, width), generator=drawn).to(dtype) for _ in range(2))
    found = []
    for globals_ in (type(attention).forward.__globals__, forward.__globals__):
        given = [part.clone().requires_grad_() for part in parts]
        out = globals_[_lean_rotary.NAME](*given, cos, sin)
        sum((part * torch.linspace(-1, 1, part.numel()).view_as(part)).sum() for part in out).backward()
        found.append([*(part.detach() for part in out), *(part.grad for part in given)])
    return tuple(found)


@pytest.mark.parametrize(("kind", "width"), [("llama", 16), ("phi3", 16), ("phi3", 8)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_rotation_is_the_librarys_also_where_only_part_of_a_head_turns(kind, width, dtype):
    for own, ours in zip(*turned(kind, width, dtype), strict=True):
        allowed = 1e-6 if dtype == torch.float32 else 0.01
        assert (own - ours).float().norm() <= allowed * own.float().norm()


def test_the_librarys_own_function_stays_and_other_rotations_are_left_alone():
    from transformers.models.glm.modeling_glm import GlmAttention
    from transformers.models.llama import modeling_llama

    own = modeling_llama.apply_rotary_pos_emb
    model = small.model("llama")
    make_lean(model)
    assert modeling_llama.apply_rotary_pos_emb is own
    glm = next(m for m in small.model("glm").modules() if isinstance(m, GlmAttention))
    assert _lean_rotary.calls_it(glm)
    assert _lean_rotary.forward_of(glm) is None


@pytest.mark.parametrize("way", ["kept", "copied"])
def test_a_gates_silu_is_computed_once_more_for_both_that_need_it(way):
    """Once, where the gate is kept where it was; for each of them, where a copy of it comes back."""
    from torch.profiler import profile

    gate, up = (torch.randn(4, 16).requires_grad_() for _ in range(2))
    elsewhere = torch.autograd.graph.saved_tensors_hooks(lambda t: t, torch.clone)
    with elsewhere if way == "copied" else nullcontext():
        out = _lean_layers._gate()(gate, up)
    with profile() as seen:
        made = _lean_layers._gated_again(gate.detach(), up.detach())
        out.backward(torch.ones_like(out))
    counts = {event.key: event.count for event in seen.key_averages()}
    assert counts["aten::silu"] == (1 if way == "kept" else 2)
    assert torch.equal(made, out)
    torch.testing.assert_close(up.grad, torch.nn.functional.silu(gate.detach()))
    assert not _lean_layers._LEFT
