"""What the text demo's figures must show. A LoRA without effect leaves them where they were, and fails."""

from __future__ import annotations

from typing import Any

IN_FORM_BEFORE, IN_FORM_AFTER = 0.1, 0.9
"""Share of answers in the shop's form: at most before, at least after."""
FACTS_BEFORE, FACTS_AFTER = 0.2, 0.7
"""Share of answers with the right fact: at most before, at least after."""
PERPLEXITY_FALL = 0.5
"""Share of the held-out perplexity that must go."""
SECOND_IN_FORM = 0.9
"""Share of the second character's answers in its own form, at least."""


def _bound(result: dict[str, Any], name: str, *, least: float = 0.0, most: float = 1.0) -> list[str]:
    value = result.get(name)
    if value is None:
        return [f"{name} was not measured"]
    if least <= value <= most:
        return []
    wanted = f"at least {least:.0%}" if value < least else f"at most {most:.0%}"
    return [f"{name} is {value:.0%}, {wanted} was expected"]


def reasons(result: dict[str, Any]) -> list[str]:
    """Why the demo failed; empty when it succeeded."""
    found = _bound(result, "in_form_before", most=IN_FORM_BEFORE)
    found += _bound(result, "in_form_after", least=IN_FORM_AFTER)
    found += _bound(result, "facts_before", most=FACTS_BEFORE)
    found += _bound(result, "facts_after", least=FACTS_AFTER)
    found += _bound(result, "second_in_form", least=SECOND_IN_FORM)
    before, after = result.get("perplexity_before"), result.get("perplexity_after")
    if before is None or after is None:
        found.append("the run measured no held-out perplexity")
    elif after > before * (1 - PERPLEXITY_FALL):
        found.append(
            f"held-out perplexity went from {before:.2f} to {after:.2f}, "
            f"at least {PERPLEXITY_FALL:.0%} less was expected"
        )
    if not result.get("switched_back"):
        found.append("the first character answers otherwise after the second one has spoken")
    return found
