"""``lora-scripts bug-report [RUN_FOLDER]``: one redacted zip for whoever is to look at a fault."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from lora_scripts.core.catalogue import say


def bug_report(
    run: Annotated[Path | None, typer.Argument(metavar="RUN_FOLDER", help=say("report.folder"))] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help=say("report.output"))] = None,
    log: Annotated[
        Path | None, typer.Option("--log", exists=True, dir_okay=False, help=say("report.logs"))
    ] = None,
    with_captions: Annotated[bool, typer.Option("--with-captions", help=say("report.captions"))] = False,
) -> None:
    from lora_scripts.toolbox.bug_report import write_report

    from .console import crash_files
    from .env import describe_environment

    target = (output or Path(time.strftime("lora-scripts-report-%Y%m%d-%H%M%S.zip"))).expanduser()
    folder = run.expanduser() if run is not None else None
    entries = write_report(
        target, describe_environment(), folder, log=log, crashes=crash_files(), captions=with_captions
    )
    typer.echo(say("report.written", path=target))
    for entry in entries:
        typer.echo(say("report.entry", name=entry.name, size=entry.size))
    typer.echo(say("report.left_out.captions" if with_captions else "report.left_out"))
    typer.echo(say("report.nothing_sent"))
