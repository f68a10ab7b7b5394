"""Log-probabilities and their gradients equal PyTorch's on whole logits, and the logits are never whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from lora_scripts.families import _token_loss
from lora_scripts.families._heads import Head, find_head
from lora_scripts.families._source import find, resolve
from tests.texts import small

WORDS, WIDTH, COUNT = 101, 24, 37


class Bare(torch.nn.Module):
    """What a ``Head`` needs of a model: its output layer."""

    def __init__(self, bias: bool = False) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(WIDTH, WORDS, bias=bias)
        self.requires_grad_(False)

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.layer


def example(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states, targets, and an unlike weight for each token."""
    drawn = torch.Generator().manual_seed(seed)
    hidden = torch.randn(COUNT, WIDTH, generator=drawn) * 2
    return hidden, torch.randint(0, WORDS, (COUNT,), generator=drawn), torch.rand(COUNT, generator=drawn)


@pytest.fixture(autouse=True)
def small_slices(monkeypatch):
    """Slices of eight tokens, so that 37 make four whole ones and a rest."""
    monkeypatch.setattr(_token_loss, "BUDGET", 1)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("adapted", [False, True])
def test_values_and_gradients_are_those_of_cross_entropy(bias, adapted):
    torch.manual_seed(0)
    bare = Bare(bias)
    head = Head(bare, "linear", WORDS)
    bare.layer.weight.requires_grad_(adapted)
    assert (head.plain() is None) == adapted
    hidden, labels, weights = example()
    found = []
    for lean in (True, False):
        states = hidden.clone().requires_grad_()
        bare.layer.weight.grad = None
        if lean:
            scores = _token_loss.log_probs(states, labels, head)
        else:
            scores = -F.cross_entropy(bare.layer(states), labels, reduction="none")
        # An objective that is not linear in them, as preference objectives are.
        (weights * scores).sum().add(scores.exp().square().sum()).backward()
        found.append((scores.detach(), states.grad, bare.layer.weight.grad))
    assert found[0][0].dtype == torch.float32
    for lean, whole in zip(*found, strict=True):
        if whole is not None:
            torch.testing.assert_close(lean, whole, rtol=1e-5, atol=1e-6)


def test_what_a_head_drops_is_dropped_again_in_the_backward_pass():
    torch.manual_seed(0)
    bare = Bare()
    bare.layer = torch.nn.Sequential(torch.nn.Dropout(0.3), bare.layer)
    bare.layer.requires_grad_(True)
    hidden, labels, weights = example()
    found = []
    for lean in (True, False):
        torch.manual_seed(1)
        states = hidden.clone().requires_grad_()
        bare.layer.zero_grad()
        if lean:
            scores = _token_loss.log_probs(states, labels, Head(bare, "linear", WORDS))
        else:
            logits = torch.cat([bare.layer(part) for part in states.split(8)])
            scores = -F.cross_entropy(logits, labels, reduction="none")
        torch.rand(5)  # what is drawn until the backward pass
        (weights * scores).sum().backward()
        found.append((scores.detach(), states.grad, bare.layer[1].weight.grad.clone()))
    for one, whole in zip(*found, strict=True):
        torch.testing.assert_close(one, whole, rtol=1e-5, atol=1e-6)


def test_a_head_computes_in_one_precision_forward_and_backward():
    bare, kinds = Bare(), []
    bare.layer.requires_grad_(True)
    bare.layer.register_forward_hook(lambda layer, fed, logits: kinds.append(logits.dtype))
    hidden, labels, _ = example()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = _token_loss.log_probs(hidden.requires_grad_(), labels, Head(bare, "linear", WORDS))
    scores.sum().backward()
    assert kinds == [torch.bfloat16] * 10  # five slices, each of them twice


def test_half_precision_stays_near_full():
    torch.manual_seed(0)
    bare = Bare()
    hidden, labels, weights = example()
    grads = []
    for dtype in (torch.float32, torch.bfloat16):
        states = hidden.clone().to(dtype).requires_grad_()
        scores = _token_loss.log_probs(states, labels, Head(bare.to(dtype), "linear", WORDS))
        assert scores.dtype == torch.float32
        (weights * scores).sum().backward()
        grads.append(states.grad.float())
    assert (grads[0] - grads[1]).norm() <= 0.01 * grads[0].norm()


def test_hits_are_the_likeliest_tokens():
    torch.manual_seed(0)
    bare = Bare()
    hidden, labels, _ = example()
    logits = bare.layer(hidden)
    labels[::3] = logits.argmax(dim=1)[::3]
    scores, right = _token_loss.hits(hidden, labels, Head(bare, "linear", WORDS))
    assert right.dtype == torch.bool
    assert torch.equal(right, logits.argmax(dim=1) == labels)
    assert 13 <= int(right.sum()) < COUNT
    torch.testing.assert_close(scores, -F.cross_entropy(logits, labels, reduction="none"))


def test_no_targets_are_no_error():
    states = torch.zeros(0, WIDTH, requires_grad=True)
    for adapted in (False, True):
        bare = Bare()
        bare.layer.weight.requires_grad_(adapted)
        scores = _token_loss.log_probs(states, torch.zeros(0, dtype=torch.long), Head(bare, "linear", WORDS))
        assert scores.shape == (0,)
        scores.sum().backward()


WAYS = {"llama": "linear", "gemma": "linear", "gemma2": "own", "cohere": "own", "granite": "own"}


@pytest.mark.parametrize("kind", WAYS)
def test_the_way_to_the_logits_is_found(kind):
    """Caps and scales are seen, and with an adapted head they still hold."""
    model = small.model(kind).requires_grad_(False)
    head = find_head(model)
    assert head.way == WAYS[kind]
    ids, places = torch.arange(5, 25)[None], torch.arange(20)[None]
    expected = model(ids, use_cache=False).logits[0]
    model.get_output_embeddings().weight.requires_grad_()
    states = head.states(ids, places)[0]
    labels = torch.arange(30, 50)
    scores = _token_loss.log_probs(states, labels, head)
    torch.testing.assert_close(
        scores, -F.cross_entropy(expected, labels, reduction="none"), rtol=0, atol=1e-5
    )
    scores.sum().backward()
    lean = model.get_output_embeddings().weight.grad
    model.get_output_embeddings().weight.grad = None
    (-F.cross_entropy(model(ids, use_cache=False).logits[0], labels, reduction="sum")).backward()
    whole = model.get_output_embeddings().weight.grad
    if model.get_input_embeddings().weight is not model.get_output_embeddings().weight:
        torch.testing.assert_close(lean, whole, rtol=1e-4, atol=1e-5)


def test_a_small_cap_that_short_probes_would_not_show_is_found():
    assert find_head(small.model("gemma2", final_logit_softcapping=5000.0)).way == "own"


def test_a_model_whose_logits_come_otherwise_gives_them_whole():
    model = small.model("llama")
    own = model.forward

    def odd(*args: Any, **kwargs: Any) -> Any:
        out = own(*args, **kwargs)
        out.logits = out.logits + 0.1 * model.model.embed_tokens(kwargs["input_ids"]).sum(-1, keepdim=True)
        return out

    model.forward = odd
    head = find_head(model)
    assert head.way == "whole"
    ids, places = torch.arange(5, 25)[None], torch.arange(20)[None]
    labels = torch.arange(30, 50)
    expected = -F.cross_entropy(model(input_ids=ids, use_cache=False).logits[0], labels, reduction="none")
    states = head.states(ids, places)[0]
    torch.testing.assert_close(_token_loss.log_probs(states, labels, head), expected)


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_through_the_family_the_gradient_is_that_of_the_whole_model(tmp_path, kind):
    source = resolve(str(small.write_model(tmp_path, kind)))
    family = find("auto", source)
    model = family.load(source)
    weight = model.predictor.model.layers[0].mlp.down_proj.weight.requires_grad_()
    ids = torch.arange(5, 35)
    targets = torch.arange(30) % 3 != 0
    batch = family.collate(model, [{"ids": ids, "targets": targets}])
    assert batch["labels"].tolist() == ids[1:][targets[1:]].tolist()
    family.predict(model, batch).sum().backward()
    lean, weight.grad = weight.grad, None
    logits = model.predictor(ids[None], use_cache=False).logits[0]
    whole = F.cross_entropy(logits[:-1], ids[1:], reduction="none")[targets[1:]]
    (-whole.sum()).backward()
    torch.testing.assert_close(lean, weight.grad, rtol=1e-4, atol=1e-4)


def test_pairs_are_interleaved():
    from lora_scripts.families._text_batch import collate, sequences

    some = {
        "ids": [5, 6, 7],
        "targets": [True, False, True],
        "rejected_ids": [5, 6, 8, 9],
        "rejected_targets": [False, False, True, True],
    }
    for packing in (True, False):
        batch = collate(sequences([some, some]), packing=packing)
        assert batch["rows"].tolist() == [0, 1, 1, 2, 3, 3]
        assert batch["labels"].tolist() == [7, 8, 9, 7, 8, 9]
        flat = batch["input_ids"].flatten()
        # Each target is predicted from the token before it.
        assert flat[batch["at"]].tolist() == [6, 6, 8, 6, 6, 8]
        assert flat[batch["at"] + 1].tolist() == batch["labels"].tolist()


@pytest.mark.slow
@pytest.mark.parametrize("adapted", ["frozen", "adapted"])
def test_a_large_vocabulary_at_4096_tokens_adds_less_than_200_megabytes(adapted):
    probe = Path(__file__).with_name("causal_memory_probe.py")
    told = subprocess.run([sys.executable, probe, adapted], capture_output=True, text=True, check=True)
    assert float(told.stdout) < 200
