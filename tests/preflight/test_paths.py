"""Files and folders that a configuration names, and the machine's own probe."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lora_scripts.config.schema import RunConfig
from lora_scripts.core.catalogue import exit_code, fix, render
from lora_scripts.core.problems import Problem
from lora_scripts.preflight import machine as probing
from lora_scripts.preflight.checks.paths import check_paths, looks_local, needed_disk, without_repeats
from lora_scripts.preflight.machine import Gpu, Machine

MACHINE = Machine.probe()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "My Style 图片").mkdir(parents=True)
    (tmp_path / "data" / "My Style 图片" / "metadata.csv").write_text("file_name,caption\n")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "v1-5-pruned.safetensors").write_bytes(b"x")
    return tmp_path


def problems(machine: Machine = MACHINE, **keys):
    right = {
        "train_data_dir": "./data/My Style 图片",
        "metadata_path": "./data/My Style 图片/metadata.csv",
        "base_model": "models/v1-5-pruned.safetensors",
        "output_dir": "output/x",
    }
    return check_paths(machine, RunConfig(**(right | keys)))


def test_right_paths_are_fine_and_nothing_is_made(folder):
    before = sorted(folder.rglob("*"))
    assert problems() == []
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (
            {"train_data_dir": "./data/my styel 图片"},
            "LS1102 train_data_dir: there is no './data/my styel 图片': did you mean './data/My Style 图片'?",
        ),
        (
            {"metadata_path": "./dta/My Style 图片/metadata.csv"},
            "LS1102 metadata_path: there is no './dta/My Style 图片/metadata.csv': did you mean "
            "'./data/My Style 图片/metadata.csv'?",
        ),
        ({"train_data_dir": "somewhere/else"}, "LS1101 train_data_dir: there is no 'somewhere/else'"),
        ({"base_model": "./nowhere/sd.ckpt"}, "LS1103 base_model: there is no './nowhere/sd.ckpt'"),
        (
            {"base_model": "models/v1-5-prunde.safetensors"},
            "LS1102 base_model: there is no 'models/v1-5-prunde.safetensors': did you mean "
            "'./models/v1-5-pruned.safetensors'?",
        ),
        ({"components": {"vae": "./vae"}}, "LS1101 components.vae: there is no './vae'"),
        ({"validation": {"data_dir": "./held"}}, "LS1101 validation.data_dir: there is no './held'"),
        (
            {"train_data_dir": "models/v1-5-pruned.safetensors"},
            "LS1104 train_data_dir: 'models/v1-5-pruned.safetensors' is a file",
        ),
        ({"metadata_path": "data"}, "LS1105 metadata_path: 'data' is a folder"),
        ({"output_dir": "models/v1-5-pruned.safetensors/run"}, "LS1106 output_dir cannot be made"),
        ({"output_dir": "./data/My Style 图片/"}, "LS1107 output_dir and train_data_dir are the same folder"),
    ],
)
def test_each_wrong_path_gets_its_message(folder, keys, expected):
    found = problems(**keys)
    assert [render(problem, "en").startswith(expected) for problem in found] == [True], found
    assert exit_code(found) == 2


@pytest.mark.parametrize(
    ("task", "small"), [("text-generation", "builtin:demo-chat"), ("image-generation", "builtin:demo")]
)
def test_the_small_model_to_try_with_is_one_of_the_task(folder, task, small):
    (problem,) = problems(base_model="./nowhere", task_type=task)
    assert f"base_model: {small} to try" in fix(problem, "en")


def test_all_wrong_paths_are_said_at_once(folder):
    found = problems(train_data_dir="a", metadata_path="b", base_model="./c", output_dir="data/x")
    assert [problem.code for problem in found] == ["LS1101", "LS1101", "LS1103"]


def test_a_missing_path_is_said_once_however_many_would_open_it(folder):
    from lora_scripts.preflight.prepare import prepare

    wrong = RunConfig(
        train_data_dir="./dta", metadata_path="./m.csv", base_model="./nowhere/sd.ckpt", output_dir="o"
    )
    assert [problem.code for problem in prepare(wrong).problems] == ["LS1102", "LS1101", "LS1103"]


@pytest.mark.parametrize(
    ("text", "local"),
    [
        ("builtin:demo", False),
        ("runwayml/stable-diffusion-v1-5", False),
        ("./models/sd", True),
        ("~/sd", True),
        ("C:/models/sd", True),
        (r"models\sd", True),
        ("models/sd.safetensors", True),
        ("models/a/b", True),
        ("stable-diffusion", True),
    ],
)
def test_a_hub_id_is_told_from_a_path(text, local):
    assert looks_local(text) is local


def test_a_folder_that_cannot_be_written_to_is_refused(folder):
    (problem,) = problems(replace(MACHINE, writable=lambda path: path.name != "x"))
    assert render(problem, "en").startswith("LS3014 nothing can be written to output_dir 'output/x'")


def test_a_full_disk_is_refused_with_needed_and_free(folder):
    small = RunConfig(train_data_dir="a", base_model="./b", output_dir="output/x", lora_rank=8)
    needed = needed_disk(small)
    (problem,) = problems(replace(MACHINE, free_disk=lambda path: needed - 1), lora_rank=8)
    expected = f"about {needed // 2**20} MiB are needed, {(needed - 1) // 2**20} MiB are free"
    assert expected in render(problem, "en")
    assert exit_code([problem]) == 4
    assert problems(replace(MACHINE, free_disk=lambda path: needed), lora_rank=8) == []


def test_writable_tells_the_truth_and_leaves_nothing(tmp_path):
    assert probing.writable(tmp_path / "not" / "yet" / "there")
    assert list(tmp_path.iterdir()) == []
    assert not probing.writable(Path("/proc/lora")) or os.name == "nt"


def test_the_probe_sees_this_machine():
    assert MACHINE.python == tuple(sys.version_info[:3])
    assert MACHINE.packages["torch"] is not None
    assert MACHINE.torch is not None
    assert MACHINE.packages["torch"].partition("+")[0] == MACHINE.torch.version.partition("+")[0]
    assert MACHINE.memory_total > MACHINE.memory_free > 0
    assert MACHINE.cores >= 1
    assert MACHINE.free_disk(Path("/")) > 0


def test_the_probe_imports_no_torch():
    code = (
        "import sys; from lora_scripts.preflight.machine import Machine; Machine.probe();"
        "sys.exit(any(name in sys.modules for name in ('torch', 'bitsandbytes', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], env=with_source(), check=False).returncode == 0


def with_source() -> dict[str, str]:
    source = Path(probing.__file__).resolve().parents[2]
    return os.environ | {"PYTHONPATH": str(source)}


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (None, ["a", "b"]),
        ("1", ["b"]),
        ("1,0", ["b", "a"]),
        ("GPU-b", ["b"]),
        ("0,7,1", ["a"]),
        ("", []),
        ("-1", []),
    ],
)
def test_hidden_cards_are_not_there(monkeypatch, chosen, expected):
    if chosen is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    cards = [Gpu(name, (8, 6), 1, 1, f"GPU-{name}") for name in "ab"]
    assert [gpu.name for gpu in probing._visible(cards)] == expected


@pytest.mark.parametrize(
    ("cuda_text", "hip_text", "cuda", "other"),
    [("None", "None", None, False), ("'13.0'", "None", (13, 0), False), ("None", "'7.0.2'", None, True)],
)
def test_torchs_build_is_read_from_its_files(tmp_path, monkeypatch, cuda_text, hip_text, cuda, other):
    package = tmp_path / "torch"
    package.mkdir()
    (package / "__init__.py").write_text("raise AssertionError('imported')")
    text = f"__version__ = '2.13.0+x'\ncuda: Optional[str] = {cuda_text}\nhip: Optional[str] = {hip_text}\n"
    (package / "version.py").write_text(text)
    spec = type("Spec", (), {"origin": str(package / "__init__.py")})
    monkeypatch.setattr(probing, "find_spec", lambda name: spec)
    found = probing._torch()
    assert found is not None
    assert (found.cuda, found.other) == (cuda, other)


def test_a_missing_path_is_said_once_by_whoever_opens_it(folder):
    """Another path that is missing is still said."""
    config = RunConfig(
        task_type="text-generation",
        train_data_dir="./data",
        metadata_path="./data/rows.jsonl",
        chat_template="./mine.jinja",
        base_model="models/v1-5-pruned.safetensors",
        output_dir="output/x",
    )
    found = check_paths(MACHINE, config)
    later = [
        Problem("LS2100", {"path": "./data/rows.jsonl"}),
        Problem("LS1032", {"name": "./mine.jinja", "near": "chatml", "known": "chatml"}),
        Problem("LS2100", {"path": "no such/hub/name"}),
    ]
    said = without_repeats([*found, *later])
    assert [problem.code for problem in said] == ["LS1101", "LS1101", "LS2100"]
    assert said[-1].params["path"] == "no such/hub/name"
