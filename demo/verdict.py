"""What the demo's figures must show, and the figure that needs a reference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MIN_FALL = 0.10
"""Share of the held-out loss that must go. A LoRA without effect leaves it where it was: share 0."""

MIN_CLOSER = 0.08
"""Share of the distance between generated and drawn pictures that must go at full strength."""

MIN_CAPTIONS = 0.9
"""Share of the labelled pictures whose caption must name every thing, its colour and its place."""


def fall(before: float, after: float) -> float:
    """Share of `before` that is gone in `after`."""
    return (before - after) / before if before > 0 else 0.0


def read_reference(folder: Path, fingerprint: str) -> dict[str, Any] | None:
    """The reference kept with the base, or None where it is missing or was made with another base."""
    path = folder / "reference.json"
    if not path.exists():
        return None
    reference: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return reference if reference.get("base") == fingerprint else None


def gap_closed(result: dict[str, Any], reference: dict[str, Any] | None) -> float | None:
    """(before - after) / (before - after full fine-tuning), or None without a reference for this run.

    The full fine-tuning saw the same data for the same number of steps, so other steps have no reference.
    """
    if reference is None or reference.get("steps") != result.get("step"):
        return None
    before, after = result.get("validation_loss_before"), result.get("validation_loss_after")
    if before is None or after is None or before <= reference["after_full"]:
        return None
    return float((before - after) / (before - reference["after_full"]))


def reasons(result: dict[str, Any], distances: list[float]) -> list[str]:
    """Why the demo failed; empty when it succeeded. `distances` to the drawn style, by rising strength."""
    before, after = result.get("validation_loss_before"), result.get("validation_loss_after")
    found = []
    if before is None or after is None:
        found.append("the run measured no held-out loss")
    elif fall(before, after) < MIN_FALL:
        found.append(
            f"the held-out loss fell by {fall(before, after):.1%}, at least {MIN_FALL:.0%} were expected"
        )
    if fall(distances[0], distances[-1]) < MIN_CLOSER:
        found.append(
            f"pictures came {fall(distances[0], distances[-1]):.1%} closer to the style, "
            f"at least {MIN_CLOSER:.0%} were expected"
        )
    captions = result.get("captions_right")
    if captions is not None and captions < MIN_CAPTIONS:
        found.append(f"{captions:.0%} of the captions are right, at least {MIN_CAPTIONS:.0%} were expected")
    return found
