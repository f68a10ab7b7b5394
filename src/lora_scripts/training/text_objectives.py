"""What a language model minimises: answers as they are (sft), or the better of two answers (dpo, orpo).

A pair is two sequences of a batch: 2k the chosen answer, 2k + 1 the rejected one, each behind its prompt.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from lora_scripts.families._base import Batch, TextFamily, TextModel


class Answers:
    """Cross-entropy of the target tokens; weight = target tokens. Perplexity is its exponential."""

    coefficients: Mapping[str, float] = {"answers": 1.0}

    def __init__(self, family: TextFamily, model: TextModel) -> None:
        self.family = family
        self.model = model

    def weights(self, batch: Batch) -> dict[str, float]:
        return {"answers": float(len(batch["labels"]))}

    def sums(self, batch: Batch) -> dict[str, Tensor]:
        return {"answers": -self.family.predict(self.model, batch).sum()}

    def measures(self, batch: Batch) -> dict[str, tuple[float, float]]:
        scores, hits = self.family.hits(self.model, batch)
        weight = float(len(scores))
        return {"answers": (-float(scores.sum()), weight), "accuracy": (float(hits.sum()), weight)}

    def report(self, means: Mapping[str, float]) -> dict[str, float]:
        return {"perplexity": math.exp(min(means["answers"], 700.0)), "accuracy": means["accuracy"]}


def by_sequence(scores: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Log-probabilities (N,) of tokens -> (P,) sums over each pair's chosen and over its rejected answer."""
    import torch

    rows = batch["rows"].to(scores.device)
    sums = torch.zeros(2 * _pairs(batch), dtype=scores.dtype, device=scores.device)
    sums = sums.index_add(0, rows, scores)
    return sums[0::2], sums[1::2]


def _pairs(batch: Batch) -> int:
    """Every sequence has a target token, so the last target's row tells how many there are."""
    return (int(batch["rows"][-1]) + 1) // 2


def _lengths(batch: Batch) -> tuple[Tensor, Tensor]:
    import torch

    counts = torch.bincount(batch["rows"], minlength=2 * _pairs(batch))
    return counts[0::2], counts[1::2]


class DirectPreference:
    """DPO (Rafailov et al. 2023, eq. 7): -log sigmoid(beta x (how much more than the base the model prefers
    the chosen answer)); weight = pairs. The base's log-probabilities come as ``references``."""

    coefficients: Mapping[str, float] = {"preference": 1.0}

    def __init__(self, family: TextFamily, model: TextModel, beta: float) -> None:
        self.family = family
        self.model = model
        self.beta = beta

    def weights(self, batch: Batch) -> dict[str, float]:
        return {"preference": float(_pairs(batch))}

    def _margins(self, batch: Batch) -> Tensor:
        chosen, rejected = by_sequence(self.family.predict(self.model, batch), batch)
        base = batch["references"].to(chosen.device)
        return self.beta * ((chosen - base[0::2]) - (rejected - base[1::2]))

    def sums(self, batch: Batch) -> dict[str, Tensor]:
        from torch.nn.functional import logsigmoid

        return {"preference": -logsigmoid(self._margins(batch)).sum()}

    def measures(self, batch: Batch) -> dict[str, tuple[float, float]]:
        from torch.nn.functional import logsigmoid

        margins, weight = self._margins(batch), float(_pairs(batch))
        return {
            "preference": (-float(logsigmoid(margins).sum()), weight),
            "preferred": (float((margins > 0).sum()), weight),
            "margin": (float(margins.sum()), weight),
        }

    def report(self, means: Mapping[str, float]) -> dict[str, float]:
        return {name: means[name] for name in ("preferred", "margin")}


class OddsRatio:
    """ORPO (Hong et al. 2024, eq. 6 and 7): the chosen answer's own loss, and beta x -log sigmoid of the log
    odds ratio, with odds of length-normalised probabilities. It needs no reference."""

    def __init__(self, family: TextFamily, model: TextModel, beta: float) -> None:
        self.family = family
        self.model = model
        self.coefficients: Mapping[str, float] = {"answers": 1.0, "preference": beta}

    def weights(self, batch: Batch) -> dict[str, float]:
        chosen, _ = _lengths(batch)
        return {"answers": float(chosen.sum()), "preference": float(_pairs(batch))}

    def _terms(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Log-probability (P,) of the chosen answers, and log odds ratios (P,)."""
        import torch

        chosen, rejected = by_sequence(self.family.predict(self.model, batch), batch)
        counts = [count.to(chosen.device) for count in _lengths(batch)]
        means = [value / count for value, count in zip((chosen, rejected), counts, strict=True)]
        # log(1 - p) from log p, kept away from p = 1 where it has no value
        rest = [torch.log1p(-torch.exp(mean.clamp(max=-1e-6))) for mean in means]
        return chosen, (means[0] - rest[0]) - (means[1] - rest[1])

    def sums(self, batch: Batch) -> dict[str, Tensor]:
        from torch.nn.functional import logsigmoid

        chosen, odds = self._terms(batch)
        return {"answers": -chosen.sum(), "preference": -logsigmoid(odds).sum()}

    def measures(self, batch: Batch) -> dict[str, tuple[float, float]]:
        from torch.nn.functional import logsigmoid

        weights = self.weights(batch)
        chosen, odds = self._terms(batch)
        return {
            "answers": (-float(chosen.sum()), weights["answers"]),
            "preference": (-float(logsigmoid(odds).sum()), weights["preference"]),
            "preferred": (float((odds > 0).sum()), weights["preference"]),
        }

    def report(self, means: Mapping[str, float]) -> dict[str, float]:
        return {
            "perplexity": math.exp(min(means["answers"], 700.0)),
            "preferred": means["preferred"],
        }
