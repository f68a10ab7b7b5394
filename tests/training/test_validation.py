"""What is measured on held-out examples is the adapter as it will be used."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from lora_scripts.training.averages import Lender
from lora_scripts.training.callbacks.validation import Evaluator
from lora_scripts.training.precision import Precision
from lora_scripts.training.text_objectives import Answers


class Family:
    """Scores that dropout would change."""

    def hits(self, model, batch):
        scores = model.modules["model"](batch["scores"])
        return scores, scores > -1.0


@pytest.fixture
def evaluator():
    module = torch.nn.Dropout(0.5).train()
    model, adapter = SimpleNamespace(modules={"model": module}), SimpleNamespace(matched={"model": []})
    batches = [{"scores": torch.full((size,), float(-size))} for size in (7, 2)]
    objective = Answers(Family(), model)
    precision = Precision("no", torch.device("cpu"))
    return Evaluator(model, adapter, objective, precision, lambda: batches, Lender({}, None))


def test_dropout_is_off_while_it_measures_and_on_again_after(evaluator):
    module = evaluator.model.modules["model"]
    assert evaluator.measure() == evaluator.measure()
    assert module.training


def test_tokens_weigh_alike_whichever_batch_they_are_in(evaluator):
    measured = evaluator.measure()
    assert measured.loss == pytest.approx((7 * 7 + 2 * 2) / 9)
    assert measured.metrics["accuracy"] == 0.0
