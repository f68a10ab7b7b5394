"""The short form of ``make fuzz``: the first inputs of each kind, in this process."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.fuzz import commands, configs, headers, pictures, rows
from tests.fuzz.__main__ import ROOT, SEED
from tests.fuzz.case import Case, Kind, WrongAnswerError, case_of, judge
from tests.fuzz.plants import PLANTS
from tests.fuzz.watch import alone, try_one

KINDS = (configs, pictures, rows, headers, commands)
FEW, MANY = (100, 100, 100, 100, 6), (500, 500, 500, 500, 24)
# pytest forgets the filters that the program sets when it is imported.
pytestmark = [
    pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning"),
    pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning"),
]


@pytest.fixture(autouse=True)
def _without_a_network(monkeypatch):
    import os
    import socket

    monkeypatch.setattr(socket.socket, "connect", socket.socket.connect)  # put back what `alone` changes
    monkeypatch.setattr(os, "environ", os.environ.copy())
    alone()


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        *zip(KINDS, FEW, strict=True),
        *(pytest.param(*each, marks=pytest.mark.long) for each in zip(KINDS, MANY, strict=True)),
    ],
    ids=lambda value: getattr(value, "NAME", value),
)
def test_every_mutant_gets_a_clean_answer(kind: Kind, count: int) -> None:
    wrong, said = [], set()
    for number in range(count):
        codes, failure = try_one(kind, SEED, number)
        said.update(codes)
        if failure is not None:
            wrong.append(f"--kind {failure.kind} --only {number}: {failure.what}\n{failure.detail}")
    assert not wrong, "\n".join(wrong[:5])
    assert len(said) > 5, "the mutants hardly do harm"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.NAME)
def test_a_number_makes_the_same_input_again(kind: Kind) -> None:
    for number in range(6, 12):
        first, second = case_of(kind, 5, number), case_of(kind, 5, number)
        assert (first.files, first.told, str(first.options)) == (
            second.files,
            second.told,
            str(second.options),
        )
        other = case_of(kind, 6, number)
        assert (first.files, first.options) != (other.files, other.options)


def test_the_judge_asks_for_place_line_remedy_and_for_what_had_to_be_said(monkeypatch) -> None:
    from lora_scripts.core.problems import Location, Problem

    plain = Case({}, "", "")
    good = Problem("LS1005", {"key": "a"}, Location("c.yaml", 3))
    judge([good], plain, whole_file=frozenset(), names=["c.yaml"])
    for problem, case in (
        (Problem("LS1005", {"key": "a"}, Location("c.yaml")), plain),
        (Problem("LS1005", {"key": "a"}, Location("other.yaml", 3)), plain),
        (good, Case({}, "", "", frozenset(("LS1006",)))),
        (good, Case({}, "", "", frozenset(("LS1005",)), line=4)),
    ):
        with pytest.raises(WrongAnswerError):
            judge([problem], case, whole_file=frozenset(), names=["c.yaml"])
    monkeypatch.setattr("tests.fuzz.case.fix", lambda *_: " ")
    with pytest.raises(WrongAnswerError, match="no remedy"):
        judge([good], plain, whole_file=frozenset(), names=["c.yaml"])


@pytest.mark.slow
@pytest.mark.parametrize("plant", sorted(PLANTS))
def test_a_planted_defect_is_found(plant: str) -> None:
    """In a process of its own, since it breaks the product there."""
    words = [sys.executable, "-m", "tests.fuzz", "--plant", plant]
    done = subprocess.run(words, cwd=ROOT, text=True, capture_output=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"planted {plant}: found" in done.stdout
