"""The picture benchmark's arithmetic: which steps count, when a goal is missed, and an absent peer."""

import sys

import pytest

from bench import pictures, small_sd


def run_of(seconds, peak, modules=128):
    marks = [30.0 + 5 * seconds * number for number in range(3)]  # the first steps are slow
    marks += [marks[-1] + seconds * number for number in range(1, 6)]
    return {"cpu_seconds": marks, "peak_bytes": [peak // 2, peak], "modules": modules}


def tables(ours, theirs):
    rounds = {pictures.OURS: [run_of(*ours)] * 3, pictures.PEER: [run_of(*theirs)] * 3}
    return pictures.summary(rounds, 3)


def test_steady_state_leaves_out_the_first_steps():
    assert pictures.steady(run_of(0.5, 1), 3) == pytest.approx(0.5)


def test_the_goal_needs_speed_memory_and_equal_modules():
    reached = pictures.verdict(tables((0.5, 10**9), (1.1, 12 * 10**8)))
    assert (reached["reached"], reached["times_faster"]) == (True, pytest.approx(2.2))
    assert not pictures.verdict(tables((0.6, 10**9), (1.1, 12 * 10**8)))["reached"]
    assert not pictures.verdict(tables((0.5, 13 * 10**8), (1.1, 12 * 10**8)))["reached"]
    unequal = pictures.verdict(tables((0.5, 10**9), (1.1, 12 * 10**8, 192)))
    assert not unequal["reached"]
    told = {"arms": {}, "verdict": unequal}
    assert "different modules" in pictures.report(told)


def test_a_median_over_rounds_and_its_spread():
    rounds = {pictures.OURS: [run_of(value, 10**9) for value in (0.4, 0.9, 0.5)]}
    row = pictures.summary(rounds, 3)[pictures.OURS]
    assert [row[name] for name in ("seconds", "lowest", "highest")] == pytest.approx([0.5, 0.4, 0.9])


def test_an_absent_peer_is_said(monkeypatch, tmp_path):
    monkeypatch.delenv("PEERS_DIR", raising=False)
    assert pictures.peer() is None
    monkeypatch.setenv("PEERS_DIR", str(tmp_path))
    assert pictures.peer() is None
    told = {"arms": pictures.summary({pictures.OURS: [run_of(0.5, 10**9)]}, 3), "verdict": None}
    assert "absent" in pictures.report(told)


@pytest.mark.skipif(sys.platform == "win32", reason="environments look different there")
def test_the_peer_is_found(monkeypatch, tmp_path):
    (tmp_path / "diffusers" / "bin").mkdir(parents=True)
    (tmp_path / "diffusers" / "bin" / "python").symlink_to(sys.executable)
    (tmp_path / pictures.SCRIPT).write_text("")
    monkeypatch.setenv("PEERS_DIR", str(tmp_path))
    assert pictures.peer() == (tmp_path / "diffusers" / "bin" / "python", tmp_path / pictures.SCRIPT)


def test_pictures_are_the_same_every_time(tmp_path):
    one, other = (small_sd.write_pictures(tmp_path / name, 3, 40) for name in ("a", "b"))
    for path in sorted(one.iterdir()):
        assert path.read_bytes() == (other / path.name).read_bytes()
    assert len((one / "metadata.csv").read_text().splitlines()) == 4
