"""A small random ChatGLM3 in its original files, with a SentencePiece tokenizer of the tests' own. ``python
-m tests.bases.chatglm FOLDER`` writes it."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.families import chatglm_toy


def folder(path: Path) -> Path:
    return chatglm_toy.write(path)


if __name__ == "__main__":
    print(folder(Path(sys.argv[1]) / "chatglm"))
