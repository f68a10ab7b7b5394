"""A small random Llama with a tokenizer and a chat template of the tests' own. ``python -m
tests.bases.causal_lm FOLDER`` writes it."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.texts import small


def folder(path: Path) -> Path:
    return small.write_model(path, "llama")


if __name__ == "__main__":
    print(folder(Path(sys.argv[1]) / "causal_lm"))
