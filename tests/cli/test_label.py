"""``lora-scripts label`` as it is typed: its words, its exit codes, its death by a signal."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lora_scripts.cli.main import run
from lora_scripts.labeling import choose
from tests.labeling.conftest import draw

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def label(tmp_path, monkeypatch, capsys):
    """Runs the command in an empty folder; returns exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def typed(*words: str) -> tuple[int, str, str]:
        code = run(["label", *words])
        done = capsys.readouterr()
        return code, done.out, done.err

    return typed


def rows(path: Path) -> list[list[str]]:
    with open(path, newline="", encoding="utf-8-sig") as handle:
        return list(csv.reader(handle))


def test_captions_without_a_model_in_both_forms(label, tmp_path):
    draw(tmp_path / "data" / "neon_city", 3)
    plain = ("--input", "data/neon_city", "--captioner", "template", "--no-check")
    code, out, _ = label(*plain, "--output", "metadata.csv", "--trigger", "sks")
    assert code == 0
    assert "metadata_path: metadata.csv" in out
    assert rows(tmp_path / "metadata.csv")[:2] == [["file_name", "text"], ["img000.png", "sks, neon city"]]
    code, out, _ = label(*plain, "--output", "data/neon_city/metadata.csv", "--no-header", "--excel")
    assert code == 0
    inside = tmp_path / "data" / "neon_city" / "metadata.csv"
    assert inside.read_bytes().startswith(b"\xef\xbb\xbfimg000.png,")


def test_rows_that_are_left_out_and_a_page_at_the_end(label, tmp_path):
    draw(tmp_path / "data", 3)
    (tmp_path / "data" / "bad.png").write_bytes(b"nothing")
    code, out, err = label("--input", "data", "--captioner", "template", "--trigger", "sks")
    assert code == 3
    assert "LS2050" in err
    assert "No caption for 1 of 4 pictures: bad.png" in err
    assert (tmp_path / "output" / "dataset-check" / "data" / "report.html").is_file()
    assert "report.html" in out
    assert len(rows(tmp_path / "data" / "metadata.csv")) == 4


def test_other_formats(label, tmp_path):
    draw(tmp_path / "data", 2)
    plain = ("--input", "data", "--captioner", "template", "--no-check")
    assert label(*plain, "--output", "list.jsonl")[0] == 0
    lines = (tmp_path / "list.jsonl").read_text().splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["data", "data"]
    assert label(*plain, "--format", "txt", "--template", "{trigger} in {folder}", "--trigger", "x")[0] == 0
    assert (tmp_path / "data" / "img001.txt").read_text() == "x in data\n"


def test_without_its_model_blip_says_how_to_go_on_and_nothing_is_made_up(label, tmp_path, monkeypatch):
    draw(tmp_path / "data", 2)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "empty"))
    code, _, err = label("--input", "data", "--output", "metadata.csv", "--model", str(tmp_path / "nowhere"))
    assert code == 4
    assert "--captioner template" in err or "builtin:demo" in err
    assert "Traceback" not in err
    assert not (tmp_path / "metadata.csv").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--captioner", "blib"), "did you mean blip?"),
        (("--captioner", "template", "--model", "a", "--model", "b"), "template is expected"),
        (("--template", "{captoin}"), "there is no field 'captoin'"),
        (("--template", "{caption"), "a brace is not closed"),
        (("--template", "a town"), "{caption} is missing"),
        (("--replace", "cat"), "'cat' is not written old=new"),
        (("--output", "captions.txt"), "neither .csv nor .jsonl"),
        (("--output", "data"), "is a folder"),
        (("--output", "a.csv", "--format", "jsonl"), "does not end in .jsonl"),
        (("--output", "a.csv", "--format", "txt"), "lie beside their pictures"),
        (("--format", "xml"), "csv, jsonl, txt"),
        (("--append", "--overwrite"), "only one of"),
        (("--overwrite-edited",), "together with --overwrite"),
        (("--min-tokens", "9", "--max-tokens", "5"), "larger than --max-tokens"),
        (("--dtype", "int4"), "auto, fp32"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_else(label, tmp_path, words, said):
    draw(tmp_path / "data", 1)
    code, out, err = label("--input", "data", *words)
    assert (code, out) == (2, "")
    assert said in err
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["img000.png"]


def test_help_speaks_two_languages(tmp_path):
    shown = {}
    for language in ("en", "zh"):
        done = subprocess.run(
            [sys.executable, ROOT / "tools/auto_label.py", "--help", "--lang", language],
            cwd=tmp_path,
            env=os.environ | {"PYTHONIOENCODING": "utf-8", "COLUMNS": "120"},
            text=True,
            encoding="utf-8",
            capture_output=True,
            check=True,
        )
        shown[language] = done.stdout
    assert "触发词" in shown["zh"]
    for name in ("--captioner", "--overwrite-edited", "--max-tokens", "--allow-remote", "{trigger}"):
        assert name in shown["en"]
        assert name in shown["zh"]


def test_every_captioner_says_what_it_is():
    from lora_scripts.core.catalogue import say

    assert all(say(choose.module(name).TITLE) for name in choose.names())


SLOW = """
import sys, time
from types import SimpleNamespace
from lora_scripts.cli.main import run
from lora_scripts.labeling import choose
from lora_scripts.labeling._captioner import Words

class Slow:
    batch_size = 4
    def describe(self, pictures):
        with open(sys.argv[1], "a") as log:
            log.write("".join("%d\\n" % picture.getpixel((0, 0))[0] for picture in pictures))
        time.sleep(float(sys.argv[2]))
        return [Words("number %d" % picture.getpixel((0, 0))[0]) for picture in pictures]
    def close(self):
        pass

choose.module = lambda name: SimpleNamespace(load=lambda asked: Slow(), DEFAULT_MODEL=None)
sys.exit(run(["label", "--input", "data", "--output", "metadata.csv", "--no-check"]))
"""


def start(tmp_path: Path, pause: float = 0.0) -> subprocess.Popen[str]:
    (tmp_path / "slow.py").write_text(SLOW, encoding="utf-8")
    return subprocess.Popen(
        [sys.executable, "slow.py", "seen.txt", str(pause)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # What a shell starts in the background inherits that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("number", "code"),
    [
        pytest.param(signal.SIGKILL, -9, marks=pytest.mark.long),
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.long),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.long),
    ],
    ids=lambda n: str(n),
)
def test_killed_half_way_and_run_again_no_picture_is_captioned_twice(tmp_path, number, code):
    said = draw(tmp_path / "data", 60, sizes=((32, 32),))
    for bad in range(3):
        (tmp_path / "data" / f"bad{bad}.jpg").write_bytes(b"<html>")
    first, record, deadline = (
        start(tmp_path, 0.5),
        tmp_path / ".metadata.csv.labels.jsonl",
        time.monotonic() + 60,
    )
    while first.poll() is None and time.monotonic() < deadline:
        if record.exists() and record.read_bytes().count(b'"name"') >= 20:
            first.send_signal(number)
            break
        time.sleep(0.01)
    out, err = first.communicate(timeout=60)
    assert first.returncode == code, err
    assert "Traceback" not in err
    assert ("the same command goes on" in err) is (number != signal.SIGKILL)
    if number != signal.SIGKILL:
        half = rows(tmp_path / "metadata.csv")
        assert 20 <= len(half) - 1 < 60
    second = start(tmp_path)
    out, err = second.communicate(timeout=60)
    assert second.returncode == 3, err
    assert "No caption for 3 of 63 pictures: bad0.jpg, bad1.jpg, bad2.jpg" in err
    assert rows(tmp_path / "metadata.csv")[1:] == [[name, f"number {n}"] for n, name in enumerate(said)]
    seen = [int(line) for line in (tmp_path / "seen.txt").read_text().split()]
    # What the captioner looked at when it died had not been said; nothing else is looked at twice.
    assert len(seen) - len(set(seen)) <= 4
    assert set(seen) == set(range(60))
    assert "60 captions kept" not in out
