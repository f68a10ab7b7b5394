"""What answers at once: help, schema, explanations and a broken configuration load nothing heavy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "diffusers", "transformers", "peft", "accelerate", "bitsandbytes", "tensorboard", "numpy")
CODE = """
import json, sys
from lora_scripts.cli.main import run
code = run(sys.argv[1:])
print("\\n" + json.dumps([code, [name for name in {heavy!r} if name in sys.modules]]))
"""
BROKEN = """\
train_data_dir: "./data"
base_model: builtin:demo
lora_rnk: 8
learning_rate: fast
output_dir: "./output/x"
"""


def carry_out(*arguments: str, cwd: Path) -> tuple[int, list[str]]:
    """The exit code, and the heavy modules that were loaded."""
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(heavy=HEAVY), *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=cwd,
        check=True,
    )
    code, loaded = json.loads(done.stdout.splitlines()[-1])
    return code, loaded


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("train", "--help"),
        ("generate", "--help"),
        ("schema",),
        ("explain", "LS1001"),
        ("--version",),
    ],
    ids=" ".join,
)
def test_answers_without_the_heavy_stack(arguments, tmp_path):
    code, loaded = carry_out(*arguments, cwd=tmp_path)
    assert (code, loaded) == (0, [])


@pytest.mark.parametrize("command", ["check", "train"])
def test_a_broken_configuration_is_refused_without_the_heavy_stack(command, tmp_path):
    (tmp_path / "broken.yaml").write_text(BROKEN, encoding="utf-8")
    code, loaded = carry_out(command, "--config", "broken.yaml", cwd=tmp_path)
    assert (code, loaded) == (2, [])
