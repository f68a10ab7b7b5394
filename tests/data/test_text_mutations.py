"""Damaged files: whatever happens to their bytes, the answer is rows and problems with a place."""

from __future__ import annotations

import json
import random

import pytest

from lora_scripts.core.catalogue import render
from tests.data.text_cases import dialogue, read

CALL = {"name": "find", "arguments": {"number": 17}}
ROWS = [
    [{"messages": dialogue("什么时候发货？", "二十四小时内。", "多少钱？", "十元。")} for _ in range(4)],
    [{"instruction": f"Say {n}", "input": "", "output": 'é\\n"x"'} for n in range(4)],
    [
        {
            "conversations": [
                {"from": "human", "value": "订单？"},
                {"from": "function_call", "value": json.dumps(CALL)},
                {"from": "observation", "value": "{}"},
                {"from": "gpt", "value": "在路上 🚚"},
            ],
            "tools": json.dumps([{"name": "find"}]),
        }
        for _ in range(4)
    ],
    [{"prompt": "a", "chosen": "b", "rejected": f"c{n}"} for n in range(4)],
    [{"text": "Plain text. " * 5} for _ in range(4)],
]
SPICE = [
    b'"',
    b"'",
    b",",
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b"\\",
    b"\n",
    b"\r",
    b"\0",
    b"\xff",
    b"\xe4\xbd",
    "，".encode(),
]


def files(kind: str) -> list[bytes]:
    if kind == ".jsonl":
        texts = [
            "\n".join(json.dumps(row, ensure_ascii=n % 2 == 0) for row in rows) for n, rows in enumerate(ROWS)
        ]
    elif kind == ".json":
        texts = [json.dumps(rows, ensure_ascii=False, indent=n % 3 or None) for n, rows in enumerate(ROWS)]
    else:
        texts = ["问题,回答\n" + '"甲, ""乙""\n丙",丁\nq,a\n' * 3]
    return [text.encode() for text in texts]


def mutant(data: bytes, chance: random.Random) -> bytes:
    for _ in range(chance.choice((1, 1, 2, 5))):
        at = chance.randrange(len(data))
        size = chance.choice((0, 1, 1, 3, 40))
        new = chance.choice(
            (b"", bytes([chance.randrange(256)]), chance.choice(SPICE), data[: chance.randrange(60)])
        )
        data = data[:at] + new + data[at + size :] or b" "
    return data


def survive(tmp_path, count: int, seed: int) -> int:
    chance = random.Random(seed)
    originals = [(kind, data) for kind in (".jsonl", ".json", ".csv") for data in files(kind)]
    originals += [entry for entry in originals if entry[0] == ".jsonl"]
    said = 0
    for number in range(count):
        kind, data = chance.choice(originals)
        path = tmp_path / f"m{kind}"
        path.write_bytes(mutant(data, chance))
        on_bad_row = "skip" if number % 7 == 0 else "stop"
        examples, texts = read(path, on_bad_row=on_bad_row)
        physical = path.read_bytes().replace(b"\r\n", b"\n").replace(b"\r", b"\n").count(b"\n") + 1
        for problem in texts.problems:
            said += 1
            assert problem.where is not None
            assert problem.where.file == str(path)
            assert problem.where.line is not None
            wide = path.read_bytes()[:2] in (b"\xff\xfe", b"\xfe\xff")
            assert 1 <= problem.where.line <= physical or wide
            assert all(render(problem, lang) for lang in ("en", "zh"))
        assert examples or texts.problems
        for example in examples:
            assert example.where.line
            for turn in (*example.turns, *example.chosen, *example.rejected):
                turn.content.encode()
    return said


def test_damaged_files_give_problems_with_a_place_and_never_an_exception(tmp_path):
    assert survive(tmp_path, 300, seed=1) > 150


@pytest.mark.slow
def test_ten_thousand_damaged_files(tmp_path):
    assert survive(tmp_path, 10_000, seed=2) > 5_000
