"""Starting a run does not load torch's compiler, and what is compiled later is what would have been."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lora_scripts.adapters.compiled_later import compiled_later

ROOT = Path(__file__).resolve().parents[2]
COMPILER = "torch._inductor.lowering"


PICTURES = """
from lora_scripts.families._components import component_class
from lora_scripts.families._base import Component
component_class(Component("unet", "diffusers", "UNet2DConditionModel"))
"""
TEXTS = """
import torch
from lora_scripts.adapters.inject import inject
inject(torch.nn.Sequential(torch.nn.Linear(2, 2)), ["0"], "a", r=2)
"""


@pytest.mark.long
@pytest.mark.parametrize("first", [PICTURES, TEXTS], ids=["pictures", "texts"])
def test_the_libraries_are_imported_without_the_compiler(first):
    pytest.importorskip("bitsandbytes")
    names = ("peft", "bitsandbytes", COMPILER)
    code = f"{first}\nimport sys\nprint([name in sys.modules for name in {names}])"
    env = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[True, True, False]"


def test_a_function_is_compiled_once_and_when_it_is_called(monkeypatch):
    asked = []

    def compiler(function, **options):
        asked.append(options)
        return lambda x: function(x) * 2

    monkeypatch.setattr(torch, "compile", compiler)
    with compiled_later():

        @torch.compile
        def bare(x):
            """Its words."""
            return x + 1

        @torch.compile(dynamic=False)
        def told(x):
            return x + 2

        module = torch.compile(torch.nn.Identity())
        assert asked == [{}]  # a module's name is what is trained: it is no promise
    assert torch.compile is compiler
    assert (bare.__name__, bare.__doc__) == ("bare", "Its words.")
    assert [bare(1), bare(2), told(1), module(3)] == [4, 6, 6, 6]
    assert asked == [{}, {}, {"dynamic": False}]


def test_an_import_that_fails_leaves_the_compiler_in_its_place():
    own = torch.compile
    with pytest.raises(ImportError), compiled_later():
        raise ImportError
    assert torch.compile is own
