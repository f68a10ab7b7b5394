"""``lora-scripts train``: one YAML file in, a LoRA out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from lora_scripts.core.catalogue import say
from lora_scripts.core.problems import raise_errors

from .check import Config, OutputDir, Overrides


def train(
    config: Config,
    set_: Overrides = None,
    output_dir: OutputDir = None,
    resume: Annotated[bool, typer.Option("--resume", help=say("cli.resume"))] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help=say("cli.overwrite"))] = False,
) -> int:
    from rich.console import Console

    from lora_scripts.config.load import load_config
    from lora_scripts.training import heap

    from .console import print_problems
    from .progress import phase_bar

    run_config = load_config(config, overrides=set_ or (), output_dir=output_dir)

    heap.prepare()
    # After the file is read: what is wrong in it is said without waiting for these.
    from lora_scripts.preflight.plan import plan_lines
    from lora_scripts.preflight.prepare import prepare

    if resume:
        run_config = run_config.model_copy(update={"resume": "auto"})
    console = Console(emoji=False)  # ":a:" is part of a LoRA's call
    with phase_bar(console) as progress:
        prepared = prepare(run_config, progress)
    raise_errors(prepared.problems)

    from lora_scripts.training.launch import MARK, count_processes, run_processes
    from lora_scripts.training.processes import is_launched

    if MARK not in os.environ and os.environ.get("RANK", "0") == "0":
        print_problems(prepared.problems)
        for line in plan_lines(prepared):
            console.print(line, highlight=False, markup=False, soft_wrap=True)
    count = count_processes(run_config.num_processes)
    if count > 1 and not is_launched():
        return run_processes(count, _arguments(config, set_ or (), output_dir, resume, overwrite))

    from lora_scripts.training.execute import execute

    return execute(prepared, overwrite=overwrite, console=console)


def _arguments(
    config: Path, overrides: Sequence[str], output_dir: str | None, resume: bool, overwrite: bool
) -> list[str]:
    """The same command for each process of a run."""
    words = ["train", "--config", str(config)]
    words += [word for text in overrides for word in ("--set", text)]
    words += ["--output-dir", output_dir] if output_dir is not None else []
    return words + ["--resume"] * resume + ["--overwrite"] * overwrite
