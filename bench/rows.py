"""The rows that are measured on: what is tuned on is never what is reported."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ALPACA = ROOT.parent / "shared" / "data" / "text" / "alpaca_en_demo.json"
OWN = ROOT / "data" / "after_sales" / "train.jsonl"
SETS = ("reporting", "tuning")
FEWEST = 240


@dataclass(frozen=True)
class Rows:
    source: str
    rows: list[dict[str, Any]]


def conversation(question: str, answer: str) -> dict[str, Any]:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": turns}


def part_of(row: dict[str, Any]) -> str:
    """``tuning`` or ``reporting``, by the row's content: adding rows moves none from one to the other."""
    text = "\x1f".join(turn["content"] for turn in row["messages"])
    return SETS[hashlib.sha256(text.encode()).digest()[0] % 2]


def select(part: str) -> Rows:
    """The rows of one part in file order: real instructions where they are at hand, else our own pairs,
    repeated."""
    if ALPACA.exists():
        told = json.loads(ALPACA.read_text(encoding="utf-8"))
        rows = [
            conversation("\n\n".join(filter(None, (row["instruction"], row["input"]))), row["output"])
            for row in told
        ]
        return Rows(ALPACA.name, [row for row in rows if part_of(row) == part])
    own = [json.loads(line) for line in OWN.read_text(encoding="utf-8").splitlines()]
    mine = [row for row in own if part_of(row) == part]
    return Rows(OWN.name, mine * -(-FEWEST // len(mine)))


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
