"""Row 30: bad rows of tables, lines and lists are named by line with a remedy, on both tasks.

Mutants by the hundred: tests/fuzz/test_short.py; by the ten thousand: ``make fuzz``. Every kind of bad row by
its code: tests/data/test_manifest.py, test_chat_faults.py, test_text_sources.py.
"""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest
from PIL import Image

from lora_scripts.cli import main
from lora_scripts.core.catalogue import LANGUAGES, fix, message
from lora_scripts.data import text_lines
from lora_scripts.data.rows import read_rows
from tests.data.text_cases import dialogue, read
from tests.texts import small

TABLE = [
    ("file_name,text", None),
    ('a.png,"a cat, sitting"', None),
    ('b.png "a comma is missing"', "LS2001"),
    ("c.png,one,too many", "LS2002"),
    ('d.png,"closed" and on', "LS2003"),
    (",no name", "LS2006"),
    ("e.png,a NUL \0 in it", "LS2005"),
    ('f.png,"never closed', "LS2004"),
    ("g.png,夜晚", None),
]
LINES = [
    (json.dumps({"messages": dialogue("q", "a")}), None),
    ('{"messages": [', "LS2124"),
    ("{'messages': []}", "LS2121"),
    ('{"messages": [],}', "LS2122"),
    (json.dumps({"messages": dialogue("q")}), "LS2139"),
    (json.dumps({"messages": dialogue("q", "")}), "LS2131"),
    (json.dumps({"messages": [{"role": "narrator", "content": "x"}]}), "LS2133"),
    (json.dumps({"messages": dialogue("q", "half \ud800")}), "LS2141"),
    (json.dumps({"messages": [*dialogue("q"), *dialogue("q", "a")]}), "LS2135"),
    ("[1, 2]", "LS2128"),
    ("7", "LS2128"),
    (json.dumps({"messages": dialogue("q", "b")}), None),
]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
def test_30_each_bad_row_of_a_table_has_its_line_and_a_remedy(tmp_path: Path, end: str) -> None:
    path = tmp_path / "metadata.csv"
    path.write_bytes(end.join(row for row, _ in TABLE).encode())
    rows, problems = read_rows(path)
    wanted = [(code, line) for line, (_, code) in enumerate(TABLE, 1) if code]
    assert [(problem.code, problem.where.line) for problem in problems if problem.where] == wanted
    assert [row.name for row in rows] == ["a.png", "g.png"]
    for problem in problems:
        for language in LANGUAGES:
            assert str(problem.params["line"]) in message(problem, language)
            assert fix(problem, language)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("skip", [False, True], ids=["stop", "skip"])
def test_30_each_bad_line_of_jsonl_has_its_number_or_is_counted(tmp_path: Path, end: str, skip: bool) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(end.join(row for row, _ in LINES).encode())
    examples, texts = read(path, on_bad_row="skip" if skip else "stop")
    wanted = [(code, line) for line, (_, code) in enumerate(LINES, 1) if code]
    assert [example.where.line for example in examples] == [1, len(LINES)]
    assert sum(texts.left_out.values()) == len(wanted)
    if skip:
        assert {problem.severity for problem in texts.problems} == {"warning"}
        assert sum(problem.params["count"] for problem in texts.problems) == len(wanted)
    else:
        assert [(problem.code, problem.where.line) for problem in texts.problems if problem.where] == wanted


def test_30_the_command_line_says_line_and_row_and_ends_with_three(tmp_path: Path, capsys) -> None:
    folder = tmp_path / "pics"
    folder.mkdir()
    Image.new("RGB", (64, 64)).save(folder / "a.png")
    rows = [f'a.png,"number {number}"' if number == 1 else "" for number in range(44)]
    (folder / "metadata.csv").write_text("\n".join([*rows, 'a.png "no comma"']), encoding="utf-8")
    config = tmp_path / "c.yaml"
    config.write_text(f"train_data_dir: {folder}\nbase_model: builtin:demo\noutput_dir: {tmp_path}/out\n")
    assert main.run(["check", "--config", str(config)]) == 3
    said = capsys.readouterr().err
    assert f"{folder / 'metadata.csv'}:45 LS2001" in said
    assert "Line 45: Invalid format" in said


def test_30_rows_of_text_stop_the_command_line_with_three_and_can_be_left_out(tmp_path: Path, capsys) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(row for row, _ in LINES), encoding="utf-8")
    small.write_model(tmp_path / "base")
    config = tmp_path / "c.yaml"
    text = f"task_type: text-generation\nmetadata_path: {path}\nbase_model: {tmp_path}/base\n"
    config.write_text(f"{text}output_dir: {tmp_path}/out\ncache_dir: {tmp_path}/cache\n", encoding="utf-8")
    assert main.run(["check", "--config", str(config)]) == 3
    said = capsys.readouterr().err
    assert all(f"{path}:{line}" in said for line, (_, code) in enumerate(LINES, 1) if code)
    assert main.run(["check", "--config", str(config), "--set", "on_bad_row=skip"]) == 0
    assert "LS2190" in capsys.readouterr().err


def test_30_a_file_that_goes_away_while_it_is_read_is_named_with_what_was_read(
    tmp_path: Path, monkeypatch
) -> None:
    """A network drive that is gone: the system answers EIO in the middle."""
    path = tmp_path / "rows.jsonl"
    path.write_text(
        "\n".join(json.dumps({"text": f"row {number}"}) for number in range(50)), encoding="utf-8"
    )
    whole = text_lines.lines

    def torn(*arguments):
        for number, text in whole(*arguments):
            if number == 30:
                raise OSError(errno.EIO, "Input/output error")
            yield number, text

    monkeypatch.setattr("lora_scripts.data.text_reader.lines", torn)
    examples, texts = read(path)
    assert len(examples) == 29
    (problem,) = texts.problems
    assert (problem.code, problem.severity, problem.where.line) == ("LS2013", "error", 30)
    assert "Input/output error" in message(problem)
