"""The lean layer computes what PEFT's layer computes, with its gradients, and keeps less."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from lora_scripts.adapters import lean
from lora_scripts.adapters.attach import attach, disabled, scaled, set_training
from lora_scripts.adapters.spec import AdapterSpec
from tests.adapters import language

RANK, INNER, OUTER = 4, 24, 40
SCALE = 0.7
"""No power of two, by which errors of rounding would vanish."""


def layer(*, dtype=torch.float32, bias=True, dropout=0.0, scale=SCALE):
    from peft import LoraConfig
    from peft.tuners.lora.layer import Linear

    generator = torch.Generator().manual_seed(0)

    def drawn(*shape):
        return torch.randn(shape, generator=generator) / shape[-1] ** 0.5

    base = nn.Linear(INNER, OUTER, bias=bias)
    base.weight.data, values = drawn(OUTER, INNER).to(dtype), drawn(OUTER)
    if bias:
        base.bias.data = values.to(dtype)
    base.requires_grad_(False)
    config = LoraConfig(r=RANK, lora_alpha=RANK * scale, lora_dropout=dropout, init_lora_weights=False)
    made = Linear(base, "default", config, r=RANK, lora_alpha=RANK * scale)
    made.lora_A["default"].weight.data = drawn(RANK, INNER)
    made.lora_B["default"].weight.data = drawn(OUTER, RANK)
    return made.train()


def as_lean(made):
    assert lean.make_lean({"made": made}) == 1
    return made


def run(made, *, dtype=torch.float32, autocast=None, shape=(2, 5), rounded=torch.float32):
    """Output and the gradients of x, A and B, for fixed inputs; ``dtype`` is that of x, once ``rounded``."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn((*shape, INNER), generator=generator).to(rounded).to(dtype).requires_grad_(True)
    weights = torch.randn((*shape, OUTER), generator=generator)
    made.zero_grad()
    with torch.autocast("cpu", dtype=autocast, enabled=autocast is not None):
        out = made(x)
    (out.float() * weights).sum().backward()
    grads = [made.lora_A["default"].weight.grad, made.lora_B["default"].weight.grad]
    return [out.detach(), x.grad, *(grad.clone() for grad in grads)]


def distances(found, wanted):
    return [
        float((f.double() - w.double()).norm() / w.double().norm())
        for f, w in zip(found, wanted, strict=True)
    ]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(2, 5), (7,), (2, 3, 4)])
def test_in_full_precision_it_is_pefts(bias, shape):
    found, wanted = run(as_lean(layer(bias=bias)), shape=shape), run(layer(bias=bias), shape=shape)
    assert max(distances(found, wanted)) < 1e-6
    wrong = run(layer(bias=bias, scale=0.71), shape=shape)
    assert min(distances(found, wrong)) > 1e-4


@pytest.mark.parametrize(("dtype", "allowed"), [(torch.bfloat16, 8e-3), (torch.float16, 1e-3)])
@pytest.mark.parametrize("fed", ["half", "full"])
def test_in_half_precision_it_is_as_near_the_truth_as_pefts(dtype, allowed, fed):
    x_dtype = dtype if fed == "half" else torch.float32
    options = {"dtype": x_dtype, "autocast": dtype, "shape": (4, 50)}
    exact = layer(dtype=dtype)
    exact.base_layer = exact.base_layer.float()
    truth = run(exact, rounded=x_dtype, shape=(4, 50))
    ours, theirs = run(as_lean(layer(dtype=dtype)), **options), run(layer(dtype=dtype), **options)
    kinds = [dtype, x_dtype, torch.float32, torch.float32]
    assert [tensor.dtype for tensor in ours] == [tensor.dtype for tensor in theirs] == kinds
    for mine, peft in zip(distances(ours, truth), distances(theirs, truth), strict=True):
        assert mine < allowed
        assert mine < 1.5 * peft + 1e-4


def test_without_autocast_it_computes_in_the_weights_precision():
    found = run(as_lean(layer(dtype=torch.bfloat16)), dtype=torch.bfloat16)
    wanted = run(layer(dtype=torch.bfloat16), dtype=torch.bfloat16)
    assert [t.dtype for t in found] == [t.dtype for t in wanted]
    assert max(distances(found, wanted)) < 1e-2


@pytest.mark.parametrize("parts", [1, 3])
def test_what_it_gives_may_be_written_to(parts):
    """As a mixture of experts does that adds the others' share to the shared one's."""
    found = []
    for written in (True, False):
        x = torch.randn(2, 5, INNER, generator=torch.Generator().manual_seed(5)).requires_grad_(True)
        made = [lean.part_of(as_lean(layer())) for _ in range(parts)]
        outs = lean.linear(x, *made)
        if written:
            outs = [out.mul_(2.0).add_(x.sum(-1, keepdim=True)) for out in outs]
        else:
            outs = [out * 2.0 + x.sum(-1, keepdim=True) for out in outs]
        torch.stack(outs).square().sum().backward()
        found.append([outs[0].detach(), x.grad, *(half.grad for p in made for half in (p.first, p.second))])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("start", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_the_derivative_is_that_of_the_function(start, dropout):
    generator = torch.Generator().manual_seed(1)

    def drawn(*shape, grad=True):
        return torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_(grad)

    weight, bias = drawn(6, 5, grad=False), drawn(6, grad=False)
    frozen = (drawn(3, 5, grad=False), drawn(6, 3, grad=False)) if start else (None, None)

    def function(x, first, second):
        torch.manual_seed(3)
        part = lean.Part(weight, bias, first, second, SCALE, weight.dtype, frozen)
        return lean.linear(x, part, dropout=dropout)[0]

    assert torch.autograd.gradcheck(function, (drawn(2, 4, 5), drawn(3, 5), drawn(6, 3)))


def test_the_derivative_of_parts_that_share_an_input_is_that_of_the_functions():
    generator = torch.Generator().manual_seed(1)

    def drawn(*shape):
        return torch.randn(shape, dtype=torch.float64, generator=generator)

    weights, biases = (drawn(6, 5), drawn(3, 5)), (drawn(6), None)

    def function(x, *pairs):
        parts = [
            lean.Part(weights[i], biases[i], pairs[2 * i], pairs[2 * i + 1], scale, weights[i].dtype)
            for i, scale in enumerate((SCALE, 1.3))
        ]
        return lean.linear(x, *parts)

    trained = (drawn(3, 5), drawn(6, 3), drawn(2, 5), drawn(3, 2))
    assert torch.autograd.gradcheck(function, [t.requires_grad_() for t in (drawn(2, 4, 5), *trained)])


class Attention(nn.Module):
    """Three projections that read one tensor, or ``odd`` another one."""

    def __init__(self, *, odd=False):
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = layer(), layer(scale=0.3), layer(bias=False)
        self.odd = odd
        for number, parameter in enumerate(self.parameters()):
            parameter.data += 0.01 * number

    def forward(self, x):
        other = x * 2 if self.odd else x
        return self.q_proj(x).tanh() * self.k_proj(other) + self.v_proj(other)


def gradients(model, x):
    model.zero_grad()
    x = x.clone().requires_grad_(True)
    model(x).square().sum().backward()
    trained = [p.grad for n, p in model.named_parameters() if "lora_" in n]
    return [x.grad, *(grad.clone() for grad in trained)]


@pytest.mark.parametrize("odd", [False, True])
def test_layers_that_read_one_tensor_are_computed_together_and_others_are_not(odd, monkeypatch):
    x = torch.randn((2, 7, INNER), generator=torch.Generator().manual_seed(2))
    model = Attention(odd=odd).train()
    wanted = gradients(model, x)
    names = {f"layer.0.{name}": part for name, part in model.named_children()}
    assert lean.make_lean(names) == 3
    sizes, plain = [], lean.linear
    monkeypatch.setattr(
        lean, "linear", lambda x, *parts, **o: sizes.append(len(parts)) or plain(x, *parts, **o)
    )
    assert max(distances(gradients(model, x), wanted)) < 1e-5
    assert sizes == ([3, 1, 1] if odd else [3])
    # Off, in evaluation and with dropout each goes its own way, and to the same numbers.
    parts: list[Any] = list(model.children())
    for part in parts:
        part.lora_dropout["default"] = nn.Dropout(0.5)
    assert max(distances(gradients(model.eval(), x), wanted)) < 1e-5
    sizes.clear()
    gradients(model.train(), x)
    assert sizes == [1, 1, 1]
    for part in parts:
        part.enable_adapters(False)
    sizes.clear()
    model(x)
    assert sizes == []


def test_layers_under_another_name_or_parent_are_computed_alone(monkeypatch):
    model = Attention()
    names = {"layer.0.q_proj": model.q_proj, "layer.1.k_proj": model.k_proj, "layer.0.v_proj": model.v_proj}
    lean.make_lean(names)
    assert not any("lora_scripts_fellows" in vars(part) for part in model.children())


def test_what_lies_ready_is_for_the_tensor_as_it_was():
    model = Attention()
    lean.make_lean({f"a.{name}": part for name, part in model.named_children()})
    x = torch.randn(4, INNER)
    model.q_proj(x)
    x.mul_(3)
    found = model.k_proj(x)
    torch.testing.assert_close(found, model.k_proj(x))
    model.q_proj(x)
    with torch.no_grad():
        assert not model.k_proj(x).requires_grad


def test_the_frozen_half_is_taken_away():
    made = as_lean(layer())
    first, second = (getattr(made, f"lora_{half}")["default"].weight for half in "AB")
    x = torch.randn((3, INNER), generator=torch.Generator().manual_seed(1))
    made.lora_start_A, made.lora_start_B = 2 * first.detach(), 3 * second.detach()
    with torch.no_grad():
        wanted = made.base_layer(x) + SCALE * (1 - 6) * x @ first.T @ second.T
        torch.testing.assert_close(made(x), wanted, atol=1e-5, rtol=1e-5)


def test_dropout_keeps_what_it_says_and_makes_up_for_the_rest():
    for dropout in (0.05, 0.5):
        ones, factor = lean.kept(torch.empty(500, 401), dropout, seed=7)
        assert set(ones.unique().tolist()) == {0.0, 1.0}
        assert float(ones.mean()) == pytest.approx(1 - dropout, abs=0.005)
        assert factor == pytest.approx(1 / (1 - dropout), rel=1e-4)
        rows, columns = ones.mean(0), ones.mean(1)
        assert float(rows.std()) < 0.03
        assert float(columns.std()) < 0.03
        assert torch.equal(ones, lean.kept(torch.empty(500, 401), dropout, seed=7)[0])
        assert not torch.equal(ones, lean.kept(torch.empty(500, 401), dropout, seed=8)[0])


def test_with_dropout_outputs_and_gradients_are_of_one_mask():
    made = as_lean(layer(dropout=0.4))
    generator = torch.Generator().manual_seed(5)
    x = torch.randn((6, INNER), generator=generator).requires_grad_(True)
    torch.manual_seed(11)
    seed = int(torch.randint(1 << 62, ()))
    torch.manual_seed(11)
    out = made(x)
    out.backward(torch.ones_like(out))
    ones, factor = lean.kept(x, 0.4, seed)
    first, second = (getattr(made, f"lora_{half}")["default"].weight for half in "AB")
    found = [out.detach(), x.grad, first.grad, second.grad]
    x2, a, b = (t.detach().clone().requires_grad_(True) for t in (x, first, second))
    wanted = made.base_layer(x2) + SCALE * (x2 * ones * factor) @ a.T @ b.T
    wanted.backward(torch.ones_like(wanted))
    assert max(distances(found, [wanted.detach(), x2.grad, a.grad, b.grad])) < 1e-6
    made.eval()
    assert torch.equal(made(x), made(x))


@pytest.mark.parametrize("reentrant", [True, False])
def test_recomputed_in_the_backward_pass_it_gives_the_same_gradients(reentrant):
    class Recomputed(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner
            self.lora_A, self.lora_B = inner.lora_A, inner.lora_B

        def forward(self, x):
            return checkpoint(self.inner, x, use_reentrant=reentrant)

    options = {"dtype": torch.bfloat16, "autocast": torch.bfloat16}
    made = as_lean(layer(dtype=torch.bfloat16, dropout=0.3))
    torch.manual_seed(3)
    wanted = run(made, **options)
    torch.manual_seed(3)
    found = run(Recomputed(made), **options)
    assert all(torch.equal(f, w) for f, w in zip(found, wanted, strict=True))


def test_gradients_add_up_over_micro_batches():
    made = as_lean(layer())
    x = torch.randn((2, 6, INNER), generator=torch.Generator().manual_seed(2))
    for part in x:
        made(part).square().sum().backward()
    summed = [getattr(made, f"lora_{half}")["default"].weight.grad.clone() for half in "AB"]
    made.zero_grad()
    made(x).square().sum().backward()
    whole = [getattr(made, f"lora_{half}")["default"].weight.grad for half in "AB"]
    assert max(distances(summed, whole)) < 1e-6


def kept_bytes(made, x):
    """Bytes that a forward pass keeps for the backward pass, the layer's own parameters left out."""
    own = {p.untyped_storage().data_ptr() for p in made.parameters()}
    seen, alive = {}, []

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", dtype=torch.bfloat16),
    ):
        made(x).sum()
    return sum(seen.values())


class Both(nn.Module):
    """Two layers with one input, as the projections of an attention have it."""

    def __init__(self, make):
        super().__init__()
        self.first, self.second = make(), make()

    def forward(self, x):
        return self.first(x) + self.second(x)


@pytest.mark.parametrize("fed", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_it_keeps_one_input_and_narrow_products_and_no_more(dropout, fed):
    x = 1.0 * torch.randn(400, INNER, dtype=fed).requires_grad_(True)
    options = {"dtype": torch.bfloat16, "dropout": dropout}
    own = kept_bytes(Both(lambda: as_lean(layer(**options))), x)
    small = 2 * 2 * RANK * (INNER + OUTER)
    assert own <= 2 * 400 * (INNER + 2 * RANK) + small
    assert own < 0.7 * kept_bytes(Both(lambda: layer(**options)), x)


def test_a_shared_cast_is_not_taken_for_that_of_another_or_a_changed_input():
    x = torch.randn(4, INNER)
    other = x.clone()
    cast = lean._cast(x, torch.bfloat16)
    assert lean._cast(x, torch.bfloat16) is cast
    assert lean._cast(x, torch.float16) is not cast
    cast = lean._cast(x, torch.bfloat16)
    assert lean._cast(other, torch.bfloat16) is not cast
    cast = lean._cast(x, torch.bfloat16)
    with torch.no_grad():
        assert lean._cast(x, torch.bfloat16) is not cast
    cast = lean._cast(x, torch.bfloat16)
    x.mul_(3)
    assert torch.equal(lean._cast(x, torch.bfloat16), x.bfloat16())


def test_what_is_no_plain_lora_on_a_plain_layer_stays_pefts():
    class Other(nn.Linear):
        def forward(self, x):
            return super().forward(x) * 2

    odd, hooked, twice = layer(), layer(), as_lean(layer())
    odd.base_layer.__class__ = Other
    hooked.base_layer.forward = lambda x: x
    assert [lean.fits(made) for made in (odd, hooked, twice, nn.Linear(2, 2), layer())] == [False] * 4 + [
        True
    ]
    for options in ({"dora": True}, {"targets": ("experts.down_proj",)}):
        kind = "qwen3_moe" if "targets" in options else "llama"
        adapter = attach(language.build(kind), AdapterSpec(4, 2.8, **options), lean=True)
        assert not any("Lean" in type(made).__name__ for made in adapter.layers.values())


def test_in_a_model_it_is_pefts_with_strengths_switch_and_names():
    plain, quick = language.build("qwen2"), language.build("qwen2")
    theirs = attach(plain, AdapterSpec(4, 2.8), seed=1)
    ours = attach(quick, AdapterSpec(4, 2.8), seed=1, lean=True)
    assert all("Lean" in type(made).__name__ for made in ours.layers.values())
    assert list(theirs.parameters) == list(ours.parameters)
    assert plain.predictor.state_dict().keys() == quick.predictor.state_dict().keys()
    before = language.logits(quick)
    for adapter in (theirs, ours):
        language.excite(adapter)
    for strength in (1.0, 0.3):
        with scaled(theirs, strength), scaled(ours, strength):
            wanted = language.logits(plain)
            torch.testing.assert_close(language.logits(quick), wanted, atol=2e-5, rtol=0)
    with disabled(ours):
        assert torch.equal(language.logits(quick), before)
    set_training(quick, ours, True)
    for model, adapter in ((plain, theirs), (quick, ours)):
        losses = language.train(model, adapter, steps=3, rate=1e-3)
        assert losses[-1] < losses[0]
    for name, parameter in ours.parameters.items():
        torch.testing.assert_close(parameter, theirs.parameters[name], atol=2e-5, rtol=1e-3)
