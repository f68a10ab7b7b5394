"""The demo's own check: it passes for a LoRA that works and fails for one that does nothing."""

import json

import pytest

from demo import comparison, verdict


def test_a_zero_lora_fails():
    result = {"validation_loss_before": 0.3, "validation_loss_after": 0.3, "step": 100}
    assert len(verdict.reasons(result, [0.4, 0.4, 0.4, 0.4])) == 2


def test_a_run_without_validation_fails():
    assert verdict.reasons({}, [0.4, 0.3, 0.1, 0.05])


def test_a_working_lora_passes():
    result = {"validation_loss_before": 0.3, "validation_loss_after": 0.2}
    assert verdict.reasons(result, [0.4, 0.3, 0.2, 0.1]) == []


@pytest.fixture
def reference(tmp_path):
    values = {"base": "abc", "steps": 100, "after_full": 0.1}
    (tmp_path / "reference.json").write_text(json.dumps(values))
    return tmp_path


def test_the_gap_is_measured_against_full_fine_tuning(reference):
    result = {"validation_loss_before": 0.3, "validation_loss_after": 0.15, "step": 100}
    assert verdict.gap_closed(result, verdict.read_reference(reference, "abc")) == pytest.approx(0.75)


def test_another_base_or_other_steps_have_no_reference(reference):
    result = {"validation_loss_before": 0.3, "validation_loss_after": 0.15, "step": 200}
    assert verdict.read_reference(reference, "other") is None
    assert verdict.gap_closed(result, verdict.read_reference(reference, "abc")) is None
    assert verdict.gap_closed(result, None) is None


def test_the_prompts_of_the_comparison_are_held_out():
    assert len(comparison.held_out()) == len(comparison.PROMPTS) == len(comparison.SEEDS)


def test_pictures_in_the_style_are_near_it_and_others_far():
    from demo.draw import DayStyle

    scenes = comparison.held_out()
    target = comparison.drawn(scenes)
    assert comparison.distance(target, target) == 0
    assert comparison.distance([DayStyle().paint(scene) for scene in scenes], target) > 0.1


def test_the_comparison_has_a_row_for_each_prompt_and_a_column_for_each_strength():
    target = comparison.drawn(comparison.held_out())
    page = comparison.compose([target] * len(comparison.STRENGTHS), target, scale=1)
    assert page.width > (len(comparison.STRENGTHS) + 1) * comparison.SIDE
    assert page.height > len(comparison.PROMPTS) * comparison.SIDE
