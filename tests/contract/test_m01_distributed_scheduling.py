"""M1: the same YAML on several processes is the same experiment, and they act as one."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from tests.contract.conftest import ROOT, environment, process

BATCH = {"batch_size": 2, "gradient_accumulation_steps": 3, "max_steps": 6, "save_steps": 3}


def losses(desk, output):
    lines = (desk.root / output / "events.jsonl").read_text(encoding="utf-8").splitlines()
    return {
        event["step"]: event["data"]["loss"] for event in map(json.loads, lines) if event["type"] == "step"
    }


def weights(desk, output, name="adapter_model.safetensors"):
    from safetensors.torch import load_file

    return load_file(desk.root / output / name)


def same(desk, one, two):
    first, second = losses(desk, one), losses(desk, two)
    assert first.keys() == second.keys()
    assert all(second[step] == pytest.approx(first[step], rel=1e-5) for step in first)


def start(desk, *words):
    command = [sys.executable, str(ROOT / "train.py"), "--config", "run.yaml", *words]
    return subprocess.Popen(
        command, cwd=desk.root, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_two_processes_learn_what_one_learns_and_resume(make_text_desk):
    desk = make_text_desk()
    desk.config(**BATCH)
    assert desk.train("run.yaml", "--output-dir", "one").code == 0
    done = process(
        ROOT / "train.py",
        "--config",
        "run.yaml",
        "--set",
        "num_processes=2",
        "--output-dir",
        "two",
        cwd=desk.root,
    )
    assert done.code == 0, done.text
    same(desk, "one", "two")
    cut = ["--set", "num_processes=2", "max_steps=3", "--output-dir", "three"]
    assert process(ROOT / "train.py", "--config", "run.yaml", *cut, cwd=desk.root).code == 0
    (desk.root / "three/result.json").unlink()
    cut[2] = "max_steps=6"
    assert process(ROOT / "train.py", "--config", "run.yaml", *cut, cwd=desk.root).code == 0
    two, three = weights(desk, "two"), weights(desk, "three")
    assert all(torch.equal(two[name], three[name]) for name in two)


def test_an_empty_rank_joins_in(make_text_desk):
    desk = make_text_desk()
    desk.config(batch_size=1, max_steps=3, save_steps=3)  # one row a window: nothing for the second
    assert desk.train("run.yaml", "--output-dir", "one").code == 0
    words = ["--set", "num_processes=2", "--output-dir", "two"]
    done = process(ROOT / "train.py", "--config", "run.yaml", *words, cwd=desk.root)
    assert done.code == 0, done.text
    same(desk, "one", "two")


def test_torchrun_starts_the_same_run(make_text_desk):
    desk = make_text_desk()
    desk.config(**BATCH)
    assert desk.train("run.yaml", "--output-dir", "one").code == 0
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words += [str(ROOT / "train.py"), "--config", "run.yaml", "--output-dir", "two"]
    done = process(*words, cwd=desk.root)
    assert done.code == 0, done.text
    same(desk, "one", "two")


def children_of(pid):
    import psutil

    return psutil.Process(pid).children()


def wait_for(path, child):
    until = time.monotonic() + 120
    while not path.exists() and child.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    assert path.exists(), child.communicate()[0]


def test_sigterm_to_one_rank_stops_and_saves_all(make_text_desk):
    desk = make_text_desk()
    desk.config(**{**BATCH, "max_steps": 4000, "save_steps": 2})
    child = start(desk, "--set", "num_processes=2", "--output-dir", "two")
    wait_for(desk.root / "two/checkpoints/step-000002", child)
    os.kill(children_of(child.pid)[1].pid, signal.SIGTERM)
    assert child.wait(120) == 143
    assert not (desk.root / "two/result.json").exists()
    assert any((desk.root / "two/checkpoints").glob("step-*"))


def test_a_rank_that_dies_is_named(make_text_desk):
    desk = make_text_desk()
    desk.config(**{**BATCH, "max_steps": 4000, "save_steps": 2})
    child = start(desk, "--set", "num_processes=2", "--output-dir", "two")
    wait_for(desk.root / "two/checkpoints/step-000002", child)
    os.kill(children_of(child.pid)[1].pid, signal.SIGKILL)
    said = child.communicate(timeout=120)[0]
    assert child.returncode == 75, said
    assert "LS7002" in said
