"""Faked machines, each with one thing wrong, and the one message that each gets."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lora_scripts.config.schema import RunConfig
from lora_scripts.core.catalogue import exit_code, render
from lora_scripts.core.packages import requirements
from lora_scripts.preflight.checks.hardware import check_hardware
from lora_scripts.preflight.checks.packages import check_packages
from lora_scripts.preflight.machine import Gpu, Machine, Torch
from lora_scripts.preflight.runner import run_checks

GIB = 2**30
RTX_3090 = Gpu("NVIDIA GeForce RTX 3090", (8, 6), 24 * GIB, 23 * GIB, "GPU-1")
RTX_2080 = replace(RTX_3090, name="NVIDIA GeForce RTX 2080", capability=(7, 5))
GTX_1080 = replace(RTX_3090, name="NVIDIA GeForce GTX 1080", capability=(6, 1))
RTX_5090 = replace(RTX_3090, name="NVIDIA GeForce RTX 5090", capability=(12, 0))
CUDA_13 = Torch(
    "2.13.0+cu130", (13, 0), architectures=("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120")
)

GOOD = Machine(
    python=(3, 12, 4),
    system="Windows",
    architecture="AMD64",
    packages=dict(requirements()),
    torch=CUDA_13,
    bitsandbytes=frozenset({"cpu", "cuda126", "cuda130"}),
    gpus=(RTX_3090,),
    nvidia_card=True,
    driver="580.65",
    driver_cuda=(13, 0),
    memory_total=32 * GIB,
    memory_free=24 * GIB,
    cores=8,
    cpu_flags=frozenset({"avx2"}),
    free_disk=lambda path: 500 * GIB,
    writable=lambda path: True,
)


def config(**keys) -> RunConfig:
    settled = {"train_data_dir": "data", "base_model": "models/base.safetensors", "output_dir": "output/x"}
    return RunConfig(**(settled | keys))


def without(name: str) -> dict[str, str | None]:
    return dict(requirements()) | {name: None}


MISMATCHES = {
    "old Python": (
        replace(GOOD, python=(3, 10, 13)),
        {},
        "LS3001 Python 3.10.13 is too old: 3.11 or newer is needed",
    ),
    "a package is missing": (
        replace(GOOD, packages=without("diffusers")),
        {},
        "LS3002 packages are missing: diffusers\n    → run: python scripts\\setup.py",
    ),
    "a package is too old": (
        replace(GOOD, packages=dict(requirements()) | {"peft": "0.9.0"}, system="Linux"),
        {},
        f"LS3003 the package peft 0.9.0 is too old: {requirements()['peft']} or newer is needed\n"
        "    → run: python3 scripts/setup.py",
    ),
    "driver older than torch's CUDA": (
        replace(GOOD, driver="552.22", driver_cuda=(12, 4)),
        {},
        "LS3004 the NVIDIA driver 552.22 runs CUDA up to 12.4, but torch 2.13.0+cu130 is built for CUDA 13.0",
    ),
    "card too old for the build": (
        replace(GOOD, gpus=(GTX_1080,)),
        {},
        "LS3005 NVIDIA GeForce GTX 1080 (compute capability 6.1) is too old for torch 2.13.0+cu130",
    ),
    "card too old, torch not asked": (
        replace(GOOD, gpus=(GTX_1080,), torch=replace(CUDA_13, architectures=None)),
        {},
        "LS3005 NVIDIA GeForce GTX 1080 (compute capability 6.1) is too old for torch 2.13.0+cu130",
    ),
    "card newer than the build": (
        replace(
            GOOD, gpus=(RTX_5090,), torch=Torch("2.6.0+cu124", (12, 4), architectures=("sm_80", "sm_90"))
        ),
        {},
        "LS3006 NVIDIA GeForce RTX 5090 (compute capability 12.0) is newer than what torch 2.6.0+cu124",
    ),
    "more processes than cards": (
        GOOD,
        {"num_processes": 2},
        "LS3007 num_processes is 2, but this computer has 1 usable card(s)",
    ),
    "NVIDIA card with a torch for the processor": (
        replace(GOOD, torch=Torch("2.13.0")),
        {},
        "LS3008 this computer has an NVIDIA card (NVIDIA GeForce RTX 3090), but torch 2.13.0 is built for "
        "the processor only\n    → run `python scripts\\setup.py --cuda`",
    ),
    "bf16 on a card without it": (
        replace(GOOD, gpus=(RTX_2080,)),
        {"mixed_precision": "bf16"},
        "LS3009 NVIDIA GeForce RTX 2080 (compute capability 7.5) does not compute in bf16\n"
        "    → write mixed_precision: fp16",
    ),
    "bitsandbytes is missing": (
        replace(GOOD, packages=without("bitsandbytes")),
        {"optimizer": "adamw8bit"},
        "LS3010 optimizer: adamw8bit needs bitsandbytes",
    ),
    "a base in few bits without bitsandbytes": (
        replace(GOOD, packages=without("bitsandbytes")),
        {"quantization": "4bit"},
        "LS3010 quantization: 4bit needs bitsandbytes",
    ),
    "a base in few bits without kernels": (
        replace(GOOD, bitsandbytes=frozenset({"cpu", "cuda126"})),
        {"quantization": "8bit"},
        f"LS3012 bitsandbytes {requirements()['bitsandbytes']} brings no kernels for CUDA 13.0",
    ),
    "bitsandbytes without kernels for this CUDA": (
        replace(GOOD, bitsandbytes=frozenset({"cpu", "cuda126"})),
        {"optimizer": "adamw8bit"},
        f"LS3012 bitsandbytes {requirements()['bitsandbytes']} brings no kernels for CUDA 13.0",
    ),
    "bitsandbytes without kernels for the processor": (
        replace(GOOD, gpus=(), nvidia_card=False, torch=Torch("2.13.0"), bitsandbytes=frozenset({"cuda130"})),
        {"optimizer": "adamw8bit"},
        f"LS3012 bitsandbytes {requirements()['bitsandbytes']} brings no kernels for CPU",
    ),
}


def machine_problems(machine: Machine, **keys):
    return run_checks(machine, config(**keys), (check_packages, check_hardware))


def test_a_good_machine_has_no_problem():
    assert machine_problems(GOOD) == []
    assert machine_problems(GOOD, optimizer="adamw8bit", mixed_precision="bf16", num_processes=1) == []


@pytest.mark.parametrize("name", MISMATCHES)
def test_each_mismatch_gets_its_message(name):
    machine, keys, expected = MISMATCHES[name]
    found = machine_problems(machine, **keys)
    assert [render(problem, "en").startswith(expected) for problem in found] == [True], found
    assert exit_code(found) == 4
    assert render(found[0], "zh") != render(found[0], "en")


def test_everything_wrong_is_said_at_once():
    machine = replace(GOOD, python=(3, 9, 0), packages=without("peft"), torch=Torch("2.13.0"))
    assert [problem.code for problem in machine_problems(machine)] == ["LS3001", "LS3002", "LS3008"]


def test_a_missing_driver_is_a_warning_because_the_processor_works():
    machine = replace(GOOD, gpus=(), driver=None, driver_cuda=None)
    (problem,) = check_hardware(machine, config())
    assert (problem.code, problem.severity) == ("LS3011", "warning")


def test_the_built_in_base_may_train_beside_an_idle_card():
    machine = replace(GOOD, torch=Torch("2.13.0"))
    (problem,) = check_hardware(machine, config(base_model="builtin:demo"))
    assert (problem.code, problem.severity) == ("LS3008", "warning")


def test_a_torch_for_other_cards_is_left_alone():
    assert check_hardware(replace(GOOD, torch=Torch("2.13.0", other=True)), config()) == []


@pytest.mark.parametrize(
    ("architectures", "capability", "runs"),
    [
        (("sm_80",), (8, 9), True),
        (("sm_86",), (8, 0), False),
        (("sm_80",), (9, 0), False),
        (("sm_80", "compute_90"), (12, 0), True),
        (("sm_90a", "sm_120"), (12, 0), True),
        (("sm_75", "sm_80"), (7, 0), False),
    ],
)
def test_machine_code_runs_within_its_generation(architectures, capability, runs):
    machine = replace(
        GOOD,
        torch=replace(CUDA_13, architectures=architectures),
        gpus=(replace(RTX_3090, capability=capability),),
    )
    assert (check_hardware(machine, config()) == []) is runs


def test_a_minor_version_of_cuda_is_no_mismatch():
    assert check_hardware(replace(GOOD, torch=replace(CUDA_13, cuda=(13, 2))), config()) == []


def test_tensorboard_is_needed_only_where_it_is_asked_for():
    machine = replace(GOOD, packages=without("tensorboard"))
    assert [problem.code for problem in machine_problems(machine)] == ["LS3002"]
    assert machine_problems(machine, logging={"tensorboard": False}) == []


def test_a_package_that_fetches_code_is_named():
    machine = replace(GOOD, packages=dict(requirements()) | {"kernels": "0.5.0"})
    (problem,) = machine_problems(machine, optimizer="adamw8bit")
    assert (problem.code, problem.severity) == ("LS3013", "warning")
    assert machine_problems(machine) == []
