"""Answers, DPO and ORPO against the same formulas written out pair by pair, and exact under accumulation."""

import math
from types import SimpleNamespace

import pytest
import torch

from lora_scripts.training.batches import Window
from lora_scripts.training.loop import backward
from lora_scripts.training.precision import Precision
from lora_scripts.training.processes import Group
from lora_scripts.training.text_objectives import Answers, DirectPreference, OddsRatio

GENERATOR = torch.Generator().manual_seed(11)
LENGTHS = [(3, 5), (7, 2), (1, 4)]
"""Target tokens of the chosen and of the rejected answer of three pairs."""
SCORES = [
    [-torch.rand(count, generator=GENERATOR, dtype=torch.float64) * 3 - 0.05 for count in pair]
    for pair in LENGTHS
]
BASE = [torch.tensor([-4.0, -6.0]), torch.tensor([-9.5, -3.0]), torch.tensor([-1.0, -5.5])]


class Family:
    """A model with one number: every log-probability is multiplied by it."""

    def __init__(self):
        self.factor = torch.nn.Parameter(torch.tensor(1.0, dtype=torch.float64))

    def predict(self, model, batch):
        return batch["scores"] * self.factor

    def hits(self, model, batch):
        return batch["scores"], batch["scores"] > -1.0


def batch_of(pairs):
    sequences = [scores for pair in pairs for scores in SCORES[pair]]
    return {
        "scores": torch.cat(sequences),
        "labels": torch.zeros(sum(map(len, sequences)), dtype=torch.long),
        "rows": torch.cat([torch.full((len(s),), number) for number, s in enumerate(sequences)]),
        "references": torch.cat([BASE[pair] for pair in pairs]),
    }


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def dpo(pair, beta):
    chosen, rejected = (float(scores.sum()) for scores in SCORES[pair])
    base_chosen, base_rejected = (float(value) for value in BASE[pair])
    return -math.log(sigmoid(beta * (chosen - base_chosen - rejected + base_rejected)))


def orpo(pair):
    chosen, rejected = (math.exp(float(scores.mean())) for scores in SCORES[pair])
    return -math.log(sigmoid(math.log(chosen / (1 - chosen)) - math.log(rejected / (1 - rejected))))


def test_answers_sum_the_negative_log_probabilities_of_the_target_tokens():
    objective, batch = Answers(Family(), None), batch_of([0, 1])
    assert objective.weights(batch) == {"answers": 17.0}
    assert float(objective.sums(batch)["answers"].detach()) == pytest.approx(-float(batch["scores"].sum()))
    value, weight = objective.measures(batch)["accuracy"]
    assert (value, weight) == (float((batch["scores"] > -1).sum()), 17.0)


def test_perplexity_is_the_exponential_of_the_mean():
    assert Answers(Family(), None).report({"answers": 2.0, "accuracy": 0.5})["perplexity"] == math.exp(2.0)


def test_dpo_is_the_formula_of_its_paper():
    objective, batch = DirectPreference(Family(), None, 0.3), batch_of([0, 1, 2])
    wanted = sum(dpo(pair, 0.3) for pair in range(3))
    assert float(objective.sums(batch)["preference"].detach()) == pytest.approx(wanted, rel=1e-6)
    assert objective.weights(batch) == {"preference": 3.0}
    measured = objective.measures(batch)
    assert measured["preference"][0] == pytest.approx(wanted, rel=1e-6)
    assert measured["preferred"] == (sum(dpo(pair, 0.3) < math.log(2) for pair in range(3)), 3.0)


def test_orpo_is_the_formula_of_its_paper():
    objective, batch = OddsRatio(Family(), None, 0.2), batch_of([0, 1, 2])
    sums = objective.sums(batch)
    assert float(sums["answers"].detach()) == pytest.approx(
        -sum(float(SCORES[pair][0].sum()) for pair in range(3))
    )
    assert float(sums["preference"].detach()) == pytest.approx(sum(orpo(pair) for pair in range(3)), rel=1e-6)
    assert objective.weights(batch) == {"answers": 11.0, "preference": 3.0}
    assert objective.coefficients == {"answers": 1.0, "preference": 0.2}


def test_orpo_has_a_value_where_an_answer_is_certain():
    objective, batch = OddsRatio(Family(), None, 0.2), batch_of([0])
    batch["scores"] = torch.zeros_like(batch["scores"])
    assert all(math.isfinite(float(value)) for value in objective.sums(batch).values())


@pytest.mark.parametrize("kind", [Answers, DirectPreference, OddsRatio])
def test_a_window_has_the_same_gradient_however_it_is_cut(kind):
    def gradient(cuts):
        family = Family()
        objective = kind(family, None) if kind is Answers else kind(family, None, 0.3)
        optimizer = torch.optim.SGD([family.factor], lr=0.1)
        job = SimpleNamespace(
            objective=objective,
            optimizer=optimizer,
            precision=Precision("no", torch.device("cpu")),
            parameters={"factor": family.factor},
            group=Group(),
            seed=1,
        )
        loss = backward(job, Window(0, tuple(batch_of(cut) for cut in cuts), (), tuple(range(len(cuts)))), 0)
        return loss, float(family.factor.grad)

    whole, parts = gradient([[0, 1, 2]]), gradient([[0], [1, 2]])
    assert parts == pytest.approx(whole, rel=1e-6)
    assert whole[1] != 0
