"""Layers whose forward pass is replaced compute what the library's compute, forward and backward."""

from __future__ import annotations

import pytest
import torch

from lora_scripts.families import _lean_layers
from lora_scripts.families._lean_layers import make_lean
from tests.texts import small

COUNTS = {"llama": 7, "qwen3": 11, "gemma": 5, "gemma2": 9, "glm": 5, "mistral": 7, "qwen3_moe": 9}
"""model_type -> norms and gates that are replaced in the tiny model: 2 a block and one at the end, and SiLU
gates; GLM's is one fused layer, Gemma's is another function, and experts are no layers of their own."""


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
