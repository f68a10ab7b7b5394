"""``lora-scripts convert IN``: the weights of a pickle as ``.safetensors``, and nothing of it is run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lora_scripts.core.catalogue import say


def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help=say("convert.source"))],
    output: Annotated[Path | None, typer.Option("--output", "-o", help=say("convert.output"))] = None,
) -> None:
    from lora_scripts.toolbox.convert_pickle import convert as carry_out

    place = output.expanduser() if output is not None else None
    for done in carry_out(source.expanduser(), place, typer.echo):
        megabytes = f"{done.bytes / 1e6:.1f}"
        typer.echo(say("convert.written", path=done.path, tensors=done.tensors, megabytes=megabytes))
        if done.left:
            names = ", ".join(done.left[:10]) + (", …" if len(done.left) > 10 else "")
            typer.echo(say("convert.left", names=names))
        if done.shared:
            typer.echo(say("convert.shared", count=done.shared))
