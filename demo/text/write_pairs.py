"""`python -m demo.text.write_pairs`: writes the question-answer pairs of data/after_sales."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

from demo.text.form import answer, second_answer
from demo.text.topics import TOPICS

FOLDER = Path(__file__).resolve().parents[2] / "data" / "after_sales"
TRAIN, TEST, SECOND = "train.jsonl", "test.jsonl", "second_character.jsonl"
SECOND_WORDINGS = 3
"""Wordings of each question that the second character learns from."""


def pairs() -> dict[str, list[tuple[str, str]]]:
    """File -> (question, answer); the training rows are shuffled once, with a fixed seed."""
    train = [(asked, answer(topic, n)) for topic in TOPICS for n, asked in enumerate(topic.asked)]
    test = [(topic.held_out, answer(topic, n)) for n, topic in enumerate(TOPICS)]
    second = [(asked, second_answer(topic)) for topic in TOPICS for asked in topic.asked[:SECOND_WORDINGS]]
    rng = random.Random(11)
    rng.shuffle(train)
    rng.shuffle(second)
    return {TRAIN: train, TEST: test, SECOND: second}


def line(question: str, said: str) -> str:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": said}]
    return json.dumps({"messages": turns}, ensure_ascii=False) + "\n"


def main() -> int:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, rows in pairs().items():
        (FOLDER / name).write_text("".join(line(*row) for row in rows), encoding="utf-8", newline="\n")
        print(f"{FOLDER.name}/{name}: {len(rows)} pairs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
