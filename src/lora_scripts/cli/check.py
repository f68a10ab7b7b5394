"""``lora-scripts check``: everything that is wrong with a run, and its plan in numbers, before it starts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lora_scripts.core.catalogue import exit_code, say

Config = Annotated[Path, typer.Option("--config", metavar="FILE", help=say("cli.config"))]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help=say("cli.set"))]
OutputDir = Annotated[str | None, typer.Option("--output-dir", metavar="DIR", help=say("cli.output_dir"))]


def check(config: Config, set_: Overrides = None, output_dir: OutputDir = None) -> int:
    from rich.console import Console

    from lora_scripts.config.load import load_config

    from .console import print_problems
    from .progress import phase_bar

    run_config = load_config(config, overrides=set_ or (), output_dir=output_dir)

    # After the file is read: what is wrong in it is said without waiting for these.
    from lora_scripts.preflight.plan import plan_lines
    from lora_scripts.preflight.prepare import prepare

    with phase_bar(Console(stderr=True)) as progress:
        prepared = prepare(run_config, progress)
    print_problems(prepared.problems)
    for line in plan_lines(prepared):
        typer.echo(line)
    if prepared.sound:
        typer.echo(say("check.ok", config=config))
    return exit_code(prepared.problems)
