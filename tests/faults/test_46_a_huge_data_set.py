"""Row 46: a hundred thousand rows or pictures are read as a stream, in less than a gigabyte.

That memory does not grow with rows that are read and tokenised: tests/data/test_text_streaming.py; with
pictures that are cached and learnt from: tests/end_to_end/test_many_pictures.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.texts import small

ROOT = Path(__file__).resolve().parents[2]
COUNT = 100_000
GIGABYTE = 10**9
PEAK = """
import resource, sys
from lora_scripts.cli.main import run
code = run(sys.argv[1:])
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, file=sys.stderr)
sys.exit(code)
"""
pytestmark = pytest.mark.skipif(os.name == "nt", reason="the most memory that was held is told by POSIX")


def check(config: Path) -> tuple[int, str, int]:
    """Exit code, what was said, and the most bytes that ``check`` held, in a process of its own."""
    told = {"PYTHONPATH": str(ROOT / "src"), "LORA_SCRIPTS_LANG": "en", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PEAK, "check", "--config", str(config)],
        env=os.environ | told,
        cwd=config.parent,
        text=True,
        capture_output=True,
        check=False,
    )
    peak = int(done.stderr.rsplit("peak ", 1)[1])
    return done.returncode, done.stdout + done.stderr, peak


@pytest.mark.slow
def test_46_a_hundred_thousand_conversations_are_checked_in_less_than_a_gigabyte(tmp_path: Path) -> None:
    with open(tmp_path / "rows.jsonl", "w", encoding="utf-8") as file:
        for number in range(COUNT):
            row = {"问题": f"第{number}号订单什么时候发货？", "回答": f"付款后二十四小时内，{number}。" * 8}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        file.write('{"问题": "最后一个？"}\n')
    small.write_model(tmp_path / "base")
    keys = "task_type: text-generation\nmetadata_path: rows.jsonl\nbase_model: base\n"
    keys += "output_dir: out\ncache_dir: cache\n"
    config = tmp_path / "c.yaml"
    config.write_text(keys, encoding="utf-8")
    code, said, peak = check(config)
    assert code == 3
    assert f"rows.jsonl:{COUNT + 1}" in said, "the bad row at the end is named by its line"
    assert peak < GIGABYTE, f"{peak / 1e6:.0f} MB"
    config.write_text(keys + "on_bad_row: skip\n", encoding="utf-8")
    code, said, peak = check(config)
    assert code == 0, said
    print(f"\n{COUNT} conversations: {peak / 1e6:.0f} MB")
    assert peak < GIGABYTE, f"{peak / 1e6:.0f} MB"


@pytest.mark.slow
def test_46_a_hundred_thousand_pictures_are_named_and_decoded_in_less_than_a_gigabyte(tmp_path: Path) -> None:
    folder = tmp_path / "pics"
    folder.mkdir()
    for number in range(COUNT // 1000):
        Image.new("RGB", (64, 64), (number, 7, 7)).save(tmp_path / f"{number}.png")
    with open(folder / "metadata.csv", "w", encoding="utf-8") as table:
        table.write("file_name,text\n")
        for number in range(COUNT):
            place = folder / f"{number // 1000:03}"
            place.mkdir(exist_ok=True)
            os.link(tmp_path / f"{number % (COUNT // 1000)}.png", place / f"{number}.png")
            table.write(f'{number // 1000:03}/{number}.png,"a pattern, number {number}"\n')
        table.write("none.png,missing\n")
    config = tmp_path / "c.yaml"
    config.write_text("train_data_dir: pics\nbase_model: builtin:demo\noutput_dir: out\n", encoding="utf-8")
    code, said, peak = check(config)
    assert code == 3
    assert f"metadata.csv:{COUNT + 2}" in said
    print(f"\n{COUNT} pictures: {peak / 1e6:.0f} MB")
    assert peak < GIGABYTE, f"{peak / 1e6:.0f} MB"
