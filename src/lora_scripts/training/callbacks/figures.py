"""What curves are drawn of: the figures of an event by name, the same for every board and tracker."""

from __future__ import annotations

from lora_scripts.core.events import Event, StepDone, Validated


def figures(event: Event) -> dict[str, float]:
    """Name -> value; nothing for an event that holds no figures."""
    if isinstance(event, Validated):
        return {
            "validation/loss": event.loss,
            **{f"validation/{name}": value for name, value in event.metrics.items()},
        }
    if not isinstance(event, StepDone):
        return {}
    found = {"train/loss": event.loss, "train/gradient_norm": event.grad_norm}
    return {
        **{name: value for name, value in found.items() if value is not None},
        **{f"learning_rate/{group}": rate for group, rate in event.learning_rates.items()},
        "speed/examples_per_second": event.examples / event.seconds,
        "speed/memory_gib": event.memory_gib,
    }
