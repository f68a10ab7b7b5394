"""Pickles made into .safetensors: what is taken over, left out and refused, and that the file is whole."""

from __future__ import annotations

import argparse
import json
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lora_scripts.core.problems import ProblemsError
from lora_scripts.toolbox import convert_pickle
from lora_scripts.toolbox.convert_pickle import convert, new_name
from tests.security.canaries import KINDS


def code_of(path, **options) -> str:
    with pytest.raises(ProblemsError) as error:
        convert(path, **options)
    return error.value.problems[0].code


@pytest.fixture
def quick(monkeypatch):
    """The worker's own code without the seconds that a process of its own needs to import torch."""
    from lora_scripts.toolbox import pickle_worker

    def run(command, **options):
        source, target, seconds = command[-3:]
        told = pickle_worker.main(Path(source), Path(target), int(seconds))
        return convert_pickle.subprocess.CompletedProcess(command, 0, json.dumps(told).encode(), b"")

    monkeypatch.setattr(pickle_worker, "limit", lambda size, seconds: None)
    monkeypatch.setattr(convert_pickle.subprocess, "run", run)


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    table = torch.randn(6, 4, generator=generator)
    return {
        "half": table.half(),
        "turned": table.T,
        "tied": table,
        "bits": torch.tensor([float("nan"), -0.0, float("inf")]),
        "one": torch.tensor(7, dtype=torch.int64),
        "none": torch.empty(0, 3),
        "brain": table.bfloat16()[2:],
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }


def lightning() -> type:
    """The class that the best-known checkpoint of the field holds, without the library."""
    kind = type("ModelCheckpoint", (), {"__module__": "pytorch_lightning.callbacks.model_checkpoint"})
    for name in ("pytorch_lightning", "pytorch_lightning.callbacks", kind.__module__):
        sys.modules[name] = types.ModuleType(name)
    sys.modules[kind.__module__].ModelCheckpoint = kind
    return kind


@pytest.fixture
def checkpoint_class():
    before = set(sys.modules)
    yield lightning()
    for name in set(sys.modules) - before:
        if name.startswith("pytorch_lightning"):
            del sys.modules[name]


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    flat = [t.detach().contiguous().flatten() for t in (one, other)]
    return one.shape == other.shape and one.dtype == other.dtype and (
        not flat[0].numel() or torch.equal(*(t.view(torch.uint8) for t in flat))
    )  # fmt: skip


@pytest.mark.parametrize("form", ["archive", "legacy", "packed"])
def test_every_tensor_comes_over_bit_for_bit_and_the_rest_is_named(
    form, quick, weights, checkpoint_class, tmp_path
):
    path = tmp_path / "model.ckpt"
    beside = {
        "epoch": 3, "args": argparse.Namespace(lr=1), "score": np.float32(2),
        "callbacks": {checkpoint_class: {"best": checkpoint_class()}},
    }  # fmt: skip
    torch.save(
        {"state_dict": {**weights, "step": 5}, **beside},
        path,
        _use_new_zipfile_serialization=form != "legacy",
    )
    if form == "packed":  # somebody compressed it anew: its numbers lie elsewhere than torch expects
        with (
            zipfile.ZipFile(path) as old,
            zipfile.ZipFile(tmp_path / "new", "w", zipfile.ZIP_DEFLATED) as new,
        ):
            for name in old.namelist():
                new.writestr(name, old.read(name))
        (tmp_path / "new").replace(path)
    (done,) = convert(path)
    found = load_file(done.path)
    assert done.path == tmp_path / "model.safetensors"
    assert set(found) == set(weights)
    assert all(same(found[name], tensor) for name, tensor in weights.items())
    assert set(done.left) == {"state_dict.step", *beside}
    assert done.tensors == len(weights)
    assert path.exists()
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".ckpt", ".safetensors"]


@pytest.mark.long
def test_a_base_that_was_a_pickle_is_the_base(quick, tmp_path):
    from lora_scripts.families import _source
    from tests.families import tiny

    single = tiny.write_single(tmp_path / "sd.safetensors", tiny.parts())
    before = load_file(single)
    torch.save({"state_dict": before, "global_step": 1}, tmp_path / "sd.ckpt")
    single.unlink()
    (done,) = convert(tmp_path / "sd.ckpt")
    assert _source.find("auto", _source.resolve(str(done.path))).sheet.name == "sd15"
    after = load_file(done.path)
    assert all(same(after[name], tensor) for name, tensor in before.items())


def test_a_language_model_in_shards_is_found_by_its_library(quick, tmp_path):
    from transformers import AutoModelForCausalLM

    from tests.texts.small import write_model

    folder = write_model(tmp_path / "chat", "llama")
    before = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(before)
    places = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        shard = f"pytorch_model-0000{number}-of-00002.bin"
        torch.save({name: before[name] for name in part}, folder / shard)
        places |= dict.fromkeys(part, shard)
    table = {"metadata": {"total_size": 1}, "weight_map": places}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(table))
    assert [done.path.name for done in convert(folder)] == [
        "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
    ]  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True, local_files_only=True)
    state = model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("pytorch_model.bin", "model.safetensors"),
        ("pytorch_model-00002-of-00003.bin", "model-00002-of-00003.safetensors"),
        ("diffusion_pytorch_model.fp16.bin", "diffusion_pytorch_model.fp16.safetensors"),
        ("adapter_model.bin", "adapter_model.safetensors"),
        ("v1.5-pruned.ckpt", "v1.5-pruned.safetensors"),
        ("vae-ft.PT", "vae-ft.safetensors"),
    ],
)
def test_the_new_name_is_the_one_that_libraries_look_for(name, expected, tmp_path):
    assert new_name(tmp_path / name) == expected


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=pytest.mark.long if number else ()) for number, kind in enumerate(KINDS)],
)
def test_a_program_is_never_run_and_nothing_is_left(kind, tmp_path):
    mark = tmp_path / "ran"
    path = KINDS[kind](tmp_path / "model.ckpt", mark)
    assert code_of(path) in {"LS4470", "LS4471"}
    assert not mark.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["model.ckpt"]


def test_the_program_that_was_asked_for_is_named(quick, tmp_path):
    path = KINDS["archived"](tmp_path / "model.ckpt", tmp_path / "ran")
    with pytest.raises(ProblemsError) as error:
        convert(path)
    assert error.value.problems[0].params["detail"] == "posix.mkdir"


def test_a_pickle_that_poses_is_sent_back_to_its_right_name(tmp_path):
    path = KINDS["archived"](tmp_path / "model.safetensors", tmp_path / "ran")
    with pytest.raises(ProblemsError) as error:
        convert(path)
    (problem,) = error.value.problems
    assert (problem.code, problem.params["right"]) == ("LS4003", "model.ckpt")


def endless(path):
    table: dict = {}
    table["state_dict"] = table
    torch.save(table, path)


WRONG = {
    "LS4471 cut": lambda path: (
        torch.save({"a": torch.ones(9)}, path),
        path.write_bytes(path.read_bytes()[:300]),
    ),
    "LS4004 page": lambda path: path.write_text("<!DOCTYPE html><html>"),
    "LS4471 nothing": lambda path: path.write_bytes(b""),
    "LS4472 optimizer": lambda path: torch.save({"optimizer": {"lr": 1}}, path),
    "LS4472 endless": endless,
    "LS4472 tensor": lambda path: torch.save(torch.ones(2), path),
    "LS4473 complex": lambda path: torch.save({"a": torch.ones(2, dtype=torch.complex64)}, path),
    "LS4473 sparse": lambda path: torch.save({"a": torch.eye(3).to_sparse()}, path),
    "LS4474 expanded": lambda path: torch.save({"a": torch.ones(1).expand(50000, 50000)}, path),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_no_checkpoint_is_said_and_nothing_is_left(wrong, quick, tmp_path):
    path = tmp_path / "model.pt"
    WRONG[wrong](path)
    assert code_of(path) == wrong.split()[0]
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt"]


def test_an_archive_that_unpacks_to_gigabytes_is_not_unpacked(quick, tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"a": torch.ones(2)}, path)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data/9", bytes(2 * convert_pickle_leeway()))
    assert code_of(path) == "LS4474"


def convert_pickle_leeway() -> int:
    from lora_scripts.toolbox.pickle_worker import LEEWAY

    return LEEWAY


def test_nothing_is_overwritten_and_nothing_else_is_touched(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "model.pt")
    (tmp_path / "model.safetensors").write_bytes(b"mine")
    assert code_of(tmp_path / "model.pt") == "LS4308"
    assert (tmp_path / "model.safetensors").read_bytes() == b"mine"
    assert code_of(tmp_path / "none.pt") == "LS4001"
    (tmp_path / "sub").mkdir()
    assert code_of(tmp_path / "sub") == "LS4475"


def test_the_worker_is_given_no_secrets_and_few_seconds(tmp_path, monkeypatch):
    seen = {}

    def run(command, **options):
        seen.update(options, command=command)
        raise convert_pickle.subprocess.TimeoutExpired(command, options["timeout"])

    for name in ("HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "HOME"):
        monkeypatch.setenv(name, "canary-51")
    monkeypatch.setattr(convert_pickle.subprocess, "run", run)
    torch.save({"a": torch.ones(2)}, tmp_path / "model.pt")
    assert code_of(tmp_path / "model.pt") == "LS4474"
    assert "canary-51" not in seen["env"].values()
    assert set(seen["env"]) <= {
        *convert_pickle.KEPT,
        "PYTHONPATH",
        "OMP_NUM_THREADS",
        "PYTHONDONTWRITEBYTECODE",
    }
    assert 0 < seen["timeout"] <= convert_pickle.PATIENCE + 1
    assert seen["stdin"] == convert_pickle.subprocess.DEVNULL


def test_the_worker_is_bounded(tmp_path):
    """In a process of its own, since a limit cannot be taken back."""
    import subprocess

    code = (
        "from lora_scripts.toolbox.pickle_worker import limit, SPARE\nimport torch\nlimit(1000, 60)\n"
        "try:\n    bytearray(2 * SPARE)\nexcept MemoryError:\n    print('bounded')\n"
        "import resource\nprint(resource.getrlimit(resource.RLIMIT_CPU)[0])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["bounded", "60"], done.stderr


def test_what_the_worker_says_it_wrote_is_counted(tmp_path, monkeypatch):
    torch.save({"a": torch.ones(2)}, tmp_path / "model.pt")
    monkeypatch.setattr(
        convert_pickle, "_answer", lambda printed: {"tensors": 2, "bytes": 8, "left": [], "shared": 0}
    )
    assert code_of(tmp_path / "model.pt") == "LS4476"
    assert [p.name for p in tmp_path.iterdir()] == ["model.pt"]
