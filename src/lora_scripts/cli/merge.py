"""``lora-scripts merge``: text LoRAs put into their base, as a whole model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lora_scripts.core.catalogue import say


def merge(
    lora: Annotated[list[str], typer.Option("--lora", help=say("merge.lora"))],
    output: Annotated[Path, typer.Option("--output", "-o", help=say("merge.output"))],
    base: Annotated[str | None, typer.Option("--base", help=say("merge.base"))] = None,
    dtype: Annotated[str | None, typer.Option("--dtype", help=say("merge.dtype"))] = None,
) -> None:
    from lora_scripts.toolbox.merge import DTYPES
    from lora_scripts.toolbox.merge import merge as carry_out

    if dtype is not None and dtype not in DTYPES:
        raise typer.BadParameter(say("merge.dtype.known", known=", ".join(DTYPES)), param_hint="--dtype")
    done = carry_out(
        base,
        lora,
        output.expanduser(),
        dtype=dtype,
        progress=lambda number, total: typer.echo(say("merge.progress", done=number, total=total)),
    )
    if done.dequantised:
        typer.echo(say("merge.dequantised"))
    typer.echo(say("merge.written", path=done.folder, layers=done.layers, dtype=done.dtype))
    figures = done.difference
    typer.echo(
        say("text.proven", largest=f"{figures.largest:.2g}", relative=f"{figures.relative:.2g}"),
    )
