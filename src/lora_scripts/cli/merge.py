"""``lora-scripts merge``: LoRAs put into their base, as a whole model; which kind, the LoRA says."""

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
    no_proof: Annotated[bool, typer.Option("--no-proof", help=say("merge.no_proof"))] = False,
) -> None:
    from lora_scripts.toolbox.merge import DTYPES
    from lora_scripts.toolbox.merge import merge as carry_out
    from lora_scripts.toolbox.picture_loras import all_for_pictures

    if dtype is not None and dtype not in DTYPES:
        raise typer.BadParameter(say("merge.dtype.known", known=", ".join(DTYPES)), param_hint="--dtype")
    if all_for_pictures(lora):
        _pictures(base, lora, output.expanduser(), dtype, proven=not no_proof)
        return
    done = carry_out(
        base,
        lora,
        output.expanduser(),
        dtype=dtype,
        proven=not no_proof,
        progress=lambda number, total: typer.echo(say("merge.progress", done=number, total=total)),
    )
    if done.dequantised:
        typer.echo(say("merge.dequantised"))
    typer.echo(say("merge.written", path=done.folder, layers=done.layers, dtype=done.dtype))
    if (figures := done.difference) is None:
        typer.echo(say("merge.unproven"))
        return
    typer.echo(say("text.proven.weights", difference=f"{done.weights:.2g}"))
    typer.echo(
        say("text.proven", largest=f"{figures.largest:.2g}", relative=f"{figures.relative:.2g}"),
    )


def _pictures(base: str | None, lora: list[str], output: Path, dtype: str | None, *, proven: bool) -> None:
    from lora_scripts.toolbox.merge_pictures import merge_pictures

    def progress(number: int, total: int) -> None:
        if number % 500 == 0 or number == total:
            typer.echo(say("merge.pictures.progress", done=number, total=total))

    done = merge_pictures(base, lora, output, dtype=dtype, proven=proven, progress=progress)
    typer.echo(say("merge.pictures.layers", path=done.path, layers=done.layers))
    if done.twins:
        typer.echo(say("merge.pictures.twins", count=done.twins))
    if done.left_out:
        typer.echo(say("merge.pictures.left_out", count=done.left_out))
    if (figures := done.proof) is None:
        typer.echo(say("merge.unproven"))
        return
    typer.echo(
        say("pictures.proven", largest=f"{figures.largest:.2g}", relative=f"{figures.relative:.2g}"),
    )
