"""``lora-scripts train``: one YAML file in, a LoRA out."""

from __future__ import annotations

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

    from .console import print_problems
    from .progress import phase_bar

    run_config = load_config(config, overrides=set_ or (), output_dir=output_dir)

    # After the file is read: what is wrong in it is said without waiting for these.
    from lora_scripts.preflight.plan import plan_lines
    from lora_scripts.preflight.prepare import prepare

    if resume:
        run_config = run_config.model_copy(update={"resume": "auto"})
    console = Console()
    with phase_bar(console) as progress:
        prepared = prepare(run_config, progress)
    raise_errors(prepared.problems)
    print_problems(prepared.problems)
    for line in plan_lines(prepared):
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    from lora_scripts.training.execute import execute

    return execute(prepared, overwrite=overwrite, console=console)
