"""Each loss and each weight against its formula, worked out number by number in plain Python."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from lora_scripts.families._diffusion import snr
from lora_scripts.training.losses import LossRule
from lora_scripts.training.objective import Denoising

STEPS = 1000


def abar(step: int) -> float:
    """Stable Diffusion's schedule by definition: betas linear in their square root, 0.00085 to 0.012."""
    product = 1.0
    for n in range(step + 1):
        product *= 1 - (math.sqrt(0.00085) + n / 999 * (math.sqrt(0.012) - math.sqrt(0.00085))) ** 2
    return product


TABLE = [abar(step) for step in range(STEPS)]
ALPHAS = torch.tensor(TABLE, dtype=torch.float64)
TIMES = [0, 150, 500, 999]


def ratio(step: int) -> float:
    return TABLE[step] / (1 - TABLE[step])


def example(count: int = 4, channels: int = 2, side: int = 3):
    generator = torch.Generator().manual_seed(3)
    shape = (count, channels, side, side)
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


def by_hand(prediction, target, each, weights=None, masks=None) -> float:
    """``each(error, step)`` for every element, the mean over a picture (under its mask), the sum of all."""
    total = 0.0
    for n, step in enumerate(TIMES):
        above = below = 0.0
        for c in range(prediction.shape[1]):
            for y in range(prediction.shape[2]):
                for x in range(prediction.shape[3]):
                    share = 1.0 if masks is None else float(masks[n, 0, y, x])
                    error = float(prediction[n, c, y, x]) - float(target[n, c, y, x])
                    above += share * each(error, step)
                    below += share
        total += (above / below if below else 0.0) * (1.0 if weights is None else float(weights[n]))
    return total


def at(times: list[int], table: torch.Tensor = ALPHAS):
    """Signal-to-noise ratio, time steps and how many there are."""
    steps = torch.tensor(times)
    return snr(table, steps), steps, len(table)


def computed(rule: LossRule, velocity: bool = False, **more) -> float:
    prediction, target = example()
    return float(rule.sum(prediction, target, *at(TIMES), velocity=velocity, **more))


def wanted(each, **more) -> float:
    return by_hand(*example(), each, **more)


def test_the_plain_loss_is_the_mean_squared_error_of_each_picture():
    assert computed(LossRule()) == pytest.approx(wanted(lambda e, t: e * e), rel=1e-6)


def test_the_default_is_bit_for_bit_what_it_was():
    prediction, target = example()
    before = (prediction.float() - target.float()).square().flatten(1).mean(1).sum()
    assert torch.equal(LossRule().sum(prediction, target, *at(TIMES)), before)


@pytest.mark.parametrize("schedule", ["snr", "exponential", "constant"])
@pytest.mark.parametrize("kind", ["huber", "smooth_l1"])
def test_huber_losses_and_their_thresholds(kind, schedule):
    def c(step: int) -> float:
        if schedule == "constant":
            return 0.2
        if schedule == "exponential":
            return 0.2 ** (step / STEPS)
        sigma = math.sqrt((1 - TABLE[step]) / TABLE[step])
        return (1 - 0.2) / (1 + sigma) ** 2 + 0.2

    def each(error: float, step: int) -> float:
        value = math.sqrt(error * error + c(step) ** 2) - c(step)
        return 2 * c(step) * value if kind == "huber" else 2 * value

    rule = LossRule(kind=kind, huber_c=0.2, huber_schedule=schedule)
    assert computed(rule) == pytest.approx(wanted(each), rel=1e-5)


def test_a_huber_threshold_falls_as_noise_grows():
    for schedule in ("snr", "exponential"):
        found = LossRule(kind="huber", huber_schedule=schedule).threshold(*at(TIMES))
        assert found.tolist() == sorted(found.tolist(), reverse=True)
        assert found[0] > 0.9
        assert 0.1 < found[-1] < 0.12


@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_on_noise_and_on_v(gamma):
    """min(SNR, gamma) on the picture's error: an error in the noise is one of the picture times
    sigma / alpha, an error in v one times 1 / sigma less the part along the noise."""
    for velocity, below in ((False, 0.0), (True, 1.0)):

        def each(error: float, step: int, below: float = below) -> float:
            return min(ratio(step), gamma) / (ratio(step) + below) * error * error

        found = computed(LossRule(min_snr_gamma=gamma), velocity)
        assert found == pytest.approx(wanted(each), rel=1e-5)


def test_debiased_estimation_on_noise_and_on_v():
    def noise(error: float, step: int) -> float:
        return error * error / math.sqrt(min(ratio(step), 1000.0))

    def velocity(error: float, step: int) -> float:
        return error * error / (min(ratio(step), 1000.0) + 1)

    assert ratio(TIMES[0]) > 1000 > ratio(TIMES[1]), "one of the steps is beyond the ceiling"
    assert computed(LossRule(debiased=True)) == pytest.approx(wanted(noise), rel=1e-5)
    assert computed(LossRule(debiased=True), True) == pytest.approx(wanted(velocity), rel=1e-5)


def test_weights_of_pictures_multiply_and_are_no_part_of_the_mean():
    weights = torch.tensor([1.0, 0.5, 0.0, 2.0])
    expected = wanted(lambda e, t: e * e, weights=weights)
    assert computed(LossRule(), weight=weights) == pytest.approx(expected, rel=1e-5)


def test_a_mask_weighs_places_and_a_small_one_counts_as_much_as_a_large_one():
    masks = torch.zeros(4, 1, 3, 3)
    masks[0] = 1.0
    masks[1, 0, 1, 2] = 1.0
    masks[2, 0, 0] = torch.tensor([0.25, 0.5, 1.0])
    expected = wanted(lambda e, t: e * e, masks=masks)
    assert computed(LossRule(), mask=masks) == pytest.approx(expected, rel=1e-5)
    whole = computed(LossRule(), mask=torch.ones(4, 1, 3, 3))
    assert whole == pytest.approx(computed(LossRule()), rel=1e-6)


def test_all_of_them_together():
    weights, masks = torch.tensor([1.0, 0.5, 3.0, 2.0]), torch.rand(4, 1, 3, 3)

    def each(error: float, step: int) -> float:
        c = 0.3 ** (step / STEPS)
        value = 2 * c * (math.sqrt(error * error + c * c) - c)
        return min(ratio(step), 4.0) / (ratio(step) + 1) * value

    rule = LossRule("huber", 0.3, "exponential", min_snr_gamma=4.0)
    found = computed(rule, True, weight=weights, mask=masks)
    assert found == pytest.approx(wanted(each, weights=weights, masks=masks), rel=1e-5)


def test_a_step_without_any_signal_has_a_finite_weight():
    nothing = torch.tensor([0.5, 0.0], dtype=torch.float64)
    last = at([1], nothing)
    assert last[0].tolist() == [0.0]
    one, zero = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
    assert float(LossRule(min_snr_gamma=5.0).sum(one, zero, *last, velocity=True)) == 0.0
    assert float(LossRule(debiased=True).sum(one, zero, *last, velocity=True)) == 1.0
    assert math.isfinite(float(LossRule("huber").sum(one, zero, *last)))


class Stub:
    """A family whose prediction and target are in the batch."""

    def predict(self, model, batch):
        return batch["prediction"]

    def target(self, model, batch):
        return batch["target"]

    def snr(self, model, timesteps):
        return snr(model.schedule.alphas_cumprod, timesteps)

    def time_weight(self, model, timesteps):
        return None


def batch(rows=slice(None)):
    prediction, target = example()
    return {
        "prediction": prediction[rows],
        "target": target[rows],
        "timesteps": torch.tensor(TIMES)[rows],
        "loss_weight": torch.tensor([1.0, 0.5, 3.0, 2.0])[rows],
        "mask": torch.linspace(0.1, 1, 36).view(4, 1, 3, 3)[rows],
    }


def denoising(rule: LossRule, predicts: str = "epsilon") -> Denoising:
    model = SimpleNamespace(
        description=SimpleNamespace(prediction_type=predicts),
        schedule=SimpleNamespace(alphas_cumprod=ALPHAS, config=SimpleNamespace(num_train_timesteps=STEPS)),
    )
    return Denoising(Stub(), model, rule)  # type: ignore[arg-type]


def test_any_split_of_a_window_has_the_sum_and_the_weight_of_the_whole():
    objective = denoising(LossRule("huber", min_snr_gamma=5.0))
    whole = float(objective.sums(batch())["denoising"])
    parts = [batch(slice(0, 1)), batch(slice(1, 4))]
    assert sum(float(objective.sums(part)["denoising"]) for part in parts) == pytest.approx(whole, rel=1e-6)
    assert sum(objective.weights(part)["denoising"] for part in parts) == 4.0
    assert objective.weights(batch()) == {"denoising": 4.0}


def test_what_is_measured_is_plain_whatever_is_trained():
    found = denoising(LossRule("smooth_l1", min_snr_gamma=5.0)).measures(batch())
    assert found["denoising"][0] == pytest.approx(wanted(lambda e, t: e * e), rel=1e-6)
    assert found["denoising"][1] == 4.0
    assert denoising(LossRule("smooth_l1")).sums(batch())["denoising"] != found["denoising"][0]


def test_what_a_base_predicts_decides_how_its_errors_weigh():
    plain = {key: value for key, value in batch().items() if key not in ("loss_weight", "mask")}
    noise = float(denoising(LossRule(min_snr_gamma=5.0)).sums(plain)["denoising"])
    assert noise == pytest.approx(wanted(lambda e, t: e * e * min(ratio(t), 5.0) / ratio(t)), rel=1e-5)
    velocity = float(denoising(LossRule(min_snr_gamma=5.0), "v_prediction").sums(plain)["denoising"])
    assert velocity == pytest.approx(
        wanted(lambda e, t: e * e * min(ratio(t), 5.0) / (ratio(t) + 1)), rel=1e-5
    )


def test_masks_and_weights_of_a_batch_reach_the_loss():
    given = batch()
    expected = wanted(lambda e, t: e * e, weights=given["loss_weight"], masks=given["mask"])
    assert float(denoising(LossRule()).sums(given)["denoising"]) == pytest.approx(expected, rel=1e-5)


def test_a_familys_own_weight_by_time_multiplies_with_the_pictures_and_is_not_measured():
    given, objective = batch(), denoising(LossRule())
    objective.family.time_weight = lambda model, timesteps: 1.0 + timesteps / 100
    both = given["loss_weight"] * (1.0 + given["timesteps"] / 100)
    expected = wanted(lambda e, t: e * e, weights=both, masks=given["mask"])
    assert float(objective.sums(given)["denoising"]) == pytest.approx(expected, rel=1e-5)
    assert objective.measures(given)["denoising"][0] == pytest.approx(wanted(lambda e, t: e * e), rel=1e-6)
