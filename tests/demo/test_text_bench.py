"""The benchmark's arithmetic: which rows, which steps and tokens count, and when a goal is missed."""

import json
import os
import sys

import pytest

from bench import rows, text


def test_what_is_tuned_on_is_never_reported():
    tuning, reporting = (rows.select(part).rows for part in ("tuning", "reporting"))
    assert len(tuning) > 100
    assert len(reporting) > 100
    one, other = ({json.dumps(row) for row in part} for part in (tuning, reporting))
    assert not one & other


def test_without_real_instructions_our_own_pairs_serve(monkeypatch, tmp_path):
    monkeypatch.setattr(rows, "ALPACA", tmp_path / "absent.json")
    tuning, reporting = (rows.select(part) for part in ("tuning", "reporting"))
    assert tuning.source == reporting.source == "train.jsonl"
    assert min(len(tuning.rows), len(reporting.rows)) >= rows.FEWEST
    assert not {json.dumps(row) for row in tuning.rows} & {json.dumps(row) for row in reporting.rows}


def run_of(seconds_per_token, peak):
    tokens = [1000, 400, 600, 500]
    seconds, total = [], 30.0
    for count in tokens:
        total += count * seconds_per_token
        seconds.append(total)
    # the loader may know of more steps than were made
    return {"cpu_seconds": seconds, "tokens": [*tokens, 999], "peak_bytes": [peak / 2, peak]}


def test_steady_state_leaves_out_start_and_first_steps():
    result = run_of(0.004, 10**9)
    result["cpu_seconds"] = [result["cpu_seconds"][0] + 20] + [
        value + 25 for value in result["cpu_seconds"][1:]
    ]
    assert text.steady(result, 2) == pytest.approx(0.004)


def tables(ours, default, packed):
    names = [arm.name for arm in text.ARMS]
    return text.summary(
        {name: [run_of(*run)] * 3 for name, run in zip(names, (ours, default, packed), strict=True)}, 2
    )


def test_goals_are_reached_only_with_speed_and_memory():
    reached = text.ratios(tables((0.004, 2e9), (0.0184, 4.1e9), (0.012, 2.6e9)))
    assert [row["reached"] for row in reached] == [True, True]
    assert reached[0]["times_faster"] == pytest.approx(4.6)
    slow = text.ratios(tables((0.005, 2e9), (0.0184, 4.1e9), (0.012, 2.6e9)))
    assert [row["reached"] for row in slow] == [False, False]
    large = text.ratios(tables((0.004, 2.2e9), (0.0184, 4.1e9), (0.012, 2.6e9)))
    assert [row["reached"] for row in large] == [False, False]


def test_a_median_over_rounds_and_its_spread():
    runs = {"lora-scripts, batch 4": [run_of(value, 1e9) for value in (0.004, 0.009, 0.005)]}
    row = text.summary(runs, 2)["lora-scripts, batch 4"]
    assert row["ms_per_token"] == pytest.approx(5)
    assert (row["ms_lowest"], row["ms_highest"]) == (pytest.approx(4), pytest.approx(9))


def test_an_absent_peer_is_said(monkeypatch, tmp_path):
    monkeypatch.delenv("PEERS_DIR", raising=False)
    assert text.peers_python() is None
    monkeypatch.setenv("PEERS_DIR", str(tmp_path))
    assert text.peers_python() is None
    assert "TRL: absent" in text.report({"arms": {}, "ratios": [], "peers": None})


@pytest.mark.skipif(os.name == "nt", reason="environments look different there")
def test_the_peers_interpreter_is_found(monkeypatch, tmp_path):
    (tmp_path / "trl" / "bin").mkdir(parents=True)
    (tmp_path / "trl" / "bin" / "python").symlink_to(sys.executable)
    monkeypatch.setenv("PEERS_DIR", str(tmp_path))
    assert text.peers_python() == tmp_path / "trl" / "bin" / "python"
