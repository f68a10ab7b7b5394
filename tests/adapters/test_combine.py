"""Saved adapters put together on one base: the weighted sum of what each makes of the weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import torch

from lora_scripts.adapters.attach import attach
from lora_scripts.adapters.combine import Mixture, combine
from lora_scripts.adapters.plain import to_plain
from lora_scripts.adapters.spec import AdapterSpec
from lora_scripts.core.catalogue import render
from lora_scripts.core.problems import ProblemsError
from lora_scripts.families._components import hash_of_module
from tests.adapters import language

SPECS = {
    "plain": AdapterSpec(4, 2.8),
    "rslora": AdapterSpec(3, 2.1, rslora=True, targets=("q_proj", "down_proj")),
    "dora": AdapterSpec(4, 2.8, dora=True, targets="attention"),
    "pissa": AdapterSpec(2, 1.4, init="pissa", targets="attention"),
}


@dataclass(frozen=True)
class SavedAdapter:
    """What a reader of adapter folders gives."""

    layers: dict
    parameters: tuple[str, ...] = ()
    logits: torch.Tensor = field(default_factory=lambda: torch.zeros(0))


def trained(kind, spec, seed):
    """An adapter with values of its own, as read from its file, and the logits of its model."""
    model = language.build(kind)
    adapter = attach(model, spec, seed=seed)
    with torch.no_grad():
        for number, parameter in enumerate(adapter.parameters.values()):
            generator = torch.Generator().manual_seed(1000 * seed + number)
            parameter.add_(0.04 * torch.randn(parameter.shape, generator=generator))
    plain = to_plain(adapter)
    layers = {}
    for name in plain.tensors:
        path, _, rest = name.rpartition(".lora_A.weight")
        if path and not rest:
            layers[path.partition(".")[2]] = SimpleNamespace(
                first=plain.tensors[f"{path}.lora_A.weight"],
                second=plain.tensors[f"{path}.lora_B.weight"],
                scale=plain.spec.scale,
                magnitude=plain.tensors.get(f"{path}.lora_magnitude_vector"),
            )
    return SavedAdapter(layers, plain.experts, language.logits(model))


def delta(weight, layer, transposed=False):
    """An adapted weight less the weight, in float64, expert by expert."""
    first, second = layer.first.double(), layer.second.double()
    if weight.ndim == 3:
        count, rank = len(weight), len(first) // len(weight)
        parts = [layer.scale * second[:, e::count] @ first[rank * e : rank * (e + 1)] for e in range(count)]
        return torch.stack([part.T if transposed else part for part in parts])
    whole = weight.double() + layer.scale * second @ first
    if layer.magnitude is not None:
        whole = whole * (layer.magnitude.double() / whole.square().sum(1).sqrt())[:, None]
    return whole - weight.double()


def merged_logits(kind, adapters, strengths):
    """A model whose weights were changed by hand."""
    model = language.build(kind)
    weights = dict(model.predictor.named_parameters())
    changes = {}
    for name, strength in strengths.items():
        saved = adapters[name]
        for path, layer in saved.layers.items():
            owner = path.replace(".base_layer", "")
            fused = [n for n in weights if n.rpartition(".")[0] == owner and n in saved.parameters]
            target = fused[len(fused) - 1 - path.count("base_layer")] if fused else f"{owner}.weight"
            change = strength * delta(weights[target], layer, transposed=kind == "gpt_oss")
            changes[target] = changes.get(target, 0) + change
    with torch.no_grad():
        for target, change in changes.items():
            weights[target].copy_(weights[target].double() + change)
    return language.logits(model)


@pytest.fixture(scope="module")
def adapters():
    return {name: trained("qwen2", spec, seed) for seed, (name, spec) in enumerate(SPECS.items())}


def test_each_alone_is_its_own_model_and_none_is_the_base_bit_for_bit(adapters):
    model = language.build("qwen2")
    before, names = language.logits(model), [name for name, _ in model.predictor.named_modules()]
    mixture = combine(model, adapters)
    assert mixture.names == list(SPECS)
    assert torch.equal(language.logits(model), before)
    for name, saved in [*adapters.items(), *reversed(adapters.items())]:
        mixture.use({name: 1.0})
        assert mixture.strengths == {name: 1.0}
        torch.testing.assert_close(language.logits(model), saved.logits, atol=3e-5, rtol=0)
        assert (saved.logits - before).abs().max() > 0.1
    mixture.use({"plain": 0.0})
    assert torch.equal(language.logits(model), before)
    mixture.take_off()
    assert torch.equal(language.logits(model), before)
    assert [name for name, _ in model.predictor.named_modules()] == names


@pytest.mark.parametrize(
    "strengths",
    [
        {"plain": 0.5},
        {"plain": 0.7, "rslora": -0.4},
        {"dora": 0.6},
        {"dora": 0.5, "plain": 0.8, "rslora": 1.3, "pissa": 0.25},
    ],
    ids=str,
)
def test_the_mixture_is_the_weighted_sum_of_the_deltas(adapters, strengths):
    model = language.build("qwen2")
    mark = hash_of_module(model.predictor)
    mixture = combine(model, adapters)
    mixture.use(strengths)
    found, wanted = language.logits(model), merged_logits("qwen2", adapters, strengths)
    torch.testing.assert_close(found, wanted, atol=5e-5, rtol=0)
    first = next(iter(strengths))
    wrong = merged_logits("qwen2", adapters, strengths | {first: strengths[first] + 0.05})
    assert (found - wrong).abs().max() > 1e-3
    mixture.take_off()
    assert hash_of_module(model.predictor) == mark


@pytest.mark.parametrize("kind", ["qwen3_moe", "gpt_oss"])
def test_adapters_of_different_experts_add_up(kind):
    specs = {
        "all": AdapterSpec(4, 2.8),
        "down": AdapterSpec(3, 2.1, targets=(r".*experts\.down_proj", "q_proj")),
        "up": AdapterSpec(2, 1.4, targets=(r".*experts\.gate_up_proj",)),
    }
    adapters = {name: trained(kind, spec, seed) for seed, (name, spec) in enumerate(specs.items())}
    model = language.build(kind)
    before = language.logits(model)
    mixture = Mixture(model)
    for name, saved in adapters.items():
        mixture.add(name, saved)
        mixture.use({name: 1.0})
        torch.testing.assert_close(language.logits(model), saved.logits, atol=3e-5, rtol=0)
    strengths = {"all": 0.5, "down": -0.7, "up": 1.2}
    mixture.use(strengths)
    wanted = merged_logits(kind, adapters, strengths)
    torch.testing.assert_close(language.logits(model), wanted, atol=5e-5, rtol=0)
    mixture.use({})
    assert torch.equal(language.logits(model), before)
    mixture.take_off()
    assert torch.equal(language.logits(model), before)


def test_an_adapter_added_later_replaces_its_namesake_and_leaves_the_others(adapters):
    model = language.build("qwen2")
    mixture = combine(model, {"a": adapters["plain"], "b": adapters["rslora"]})
    mixture.use({"a": 1.0, "b": 0.5})
    mixture.add("a", adapters["dora"])
    assert mixture.strengths == {"b": 0.5}
    mixture.use({"a": 1.0})
    torch.testing.assert_close(language.logits(model), adapters["dora"].logits, atol=3e-5, rtol=0)


def test_one_of_another_base_is_refused_and_nothing_has_changed(adapters):
    model = language.build("qwen2")
    mixture = combine(model, {"a": adapters["plain"]})
    mixture.use({"a": 1.0})
    before = language.logits(model)
    layer = adapters["plain"].layers["model.layers.0.self_attn.q_proj"]
    absent = SavedAdapter({"model.layers.7.self_attn.q_proj": layer, "model.layers.0.mlp": layer})
    larger = SavedAdapter({"model.layers.0.mlp.up_proj": layer})
    for saved, code in ((absent, "LS4027"), (larger, "LS4028")):
        with pytest.raises(ProblemsError) as caught:
            mixture.add("b", saved)
        (problem,) = caught.value.problems
        assert problem.code == code
        assert all(render(problem, language) for language in ("en", "zh"))
        assert torch.equal(language.logits(model), before)
        assert mixture.names == ["a"]


def test_half_precision_bases_keep_their_precision(adapters):
    model = language.build("qwen2")
    exact = language.logits(model)
    model.predictor.to(torch.bfloat16)
    rounding = (language.logits(model) - exact).norm()
    mixture = combine(model, {"dora": adapters["dora"], "plain": adapters["plain"]})
    mixture.use({"plain": 1.0, "dora": 0.5})
    found = language.logits(model)
    assert found.dtype == torch.bfloat16
    wanted = merged_logits("qwen2", adapters, {"plain": 1.0, "dora": 0.5})
    assert (found - wanted).norm() < 1.5 * rounding < 0.3 * (exact - wanted).norm()
