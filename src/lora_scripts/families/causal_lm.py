"""Every causal language model that Transformers has classes of its own for, and GGUF files of them."""

from __future__ import annotations

from ._causal import CausalFamily, causal_sheet

SHEET = causal_sheet("causal_lm", "causal language model")

FAMILY = CausalFamily(SHEET)
