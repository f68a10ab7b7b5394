"""``lora-scripts logs``: TensorBoard over one run or a folder of runs, on this computer only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lora_scripts.core.catalogue import say

LOOPBACK = "127.0.0.1"
"""The only address served: the page has no password, so nobody else may reach it."""


def logs(
    folder: Annotated[Path, typer.Argument(help=say("cli.logs.folder"))] = Path("output"),
    port: Annotated[int, typer.Option(min=1, max=65535, help=say("cli.logs.port"))] = 6006,
) -> None:
    import time

    if not any(folder.rglob("events.out.tfevents.*")):
        typer.echo(say("cli.logs.none", path=folder), err=True)
        raise typer.Exit(2)
    server = start(folder, port)
    if server is None:
        typer.echo(say("cli.logs.port.taken", port=port), err=True)
        raise typer.Exit(4)
    typer.echo(say("cli.logs.at", path=folder, port=port))
    while True:
        time.sleep(3600)


def start(folder: Path, port: int) -> str | None:
    """Serves ``folder`` from a thread of this process; returns the page's address, None for a used port."""
    import logging

    from tensorboard import program

    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    server = program.TensorBoard()
    server.configure(argv=[None, "--logdir", str(folder), "--host", LOOPBACK, "--port", str(port)])
    try:
        return server.launch()
    except program.TensorBoardServerException:
        return None
