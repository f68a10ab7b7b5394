"""``lora-scripts export``: LoRAs as files for other programs: llama.cpp and Ollama, or Diffusers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lora_scripts.core.catalogue import say

TARGETS = ("gguf", "original", "diffusers", "kohya")


def export(
    lora: Annotated[list[str], typer.Option("--lora", help=say("merge.lora"))],
    output: Annotated[Path, typer.Option("--output", "-o", help=say("export.output"))],
    to: Annotated[str, typer.Option("--to", help=say("export.to"))] = "gguf",
    base: Annotated[str | None, typer.Option("--base", help=say("merge.base"))] = None,
    merged: Annotated[bool, typer.Option("--merged", help=say("export.merged"))] = False,
    outtype: Annotated[str | None, typer.Option("--outtype", help=say("export.outtype"))] = None,
) -> None:
    from lora_scripts.export.gguf_file import OUTTYPES
    from lora_scripts.toolbox.gguf_export import export_gguf

    if to not in TARGETS:
        raise typer.BadParameter(say("export.to.known", known=", ".join(TARGETS)), param_hint="--to")
    if to == "original":
        _original(base, lora, output.expanduser())
        return
    if to in ("diffusers", "kohya"):
        _picture_layout(base, lora, output.expanduser(), to)
        return
    if outtype is not None and outtype not in OUTTYPES:
        known = ", ".join(OUTTYPES)
        raise typer.BadParameter(say("export.outtype.known", known=known), param_hint="--outtype")
    done = export_gguf(base, lora, output.expanduser(), merged=merged, outtype=outtype)
    if done.merged:
        typer.echo(
            say("export.written.model", path=done.path, count=done.count, rounding=f"{done.numbers:.2g}")
        )
    else:
        typer.echo(say("export.written.adapter", path=done.path, count=done.count))
    largest, relative = f"{done.difference.largest:.2g}", f"{done.difference.relative:.2g}"
    typer.echo(say("text.proven.weights", difference=f"{done.weights:.2g}"))
    typer.echo(say("text.proven", largest=largest, relative=relative))
    typer.echo(say("export.modelfile", path=done.modelfile))
    if not done.template:
        typer.echo(say("modelfile.no_template"))


def _original(base: str | None, loras: list[str], output: Path) -> None:
    """The adapter for programs that compute the base under the names of its own files."""
    from lora_scripts.export.original_layout import write_original_layout

    if len(loras) != 1:
        raise typer.BadParameter(say("export.one_lora"), param_hint="--lora")
    done = write_original_layout(base, Path(loras[0]).expanduser(), output)
    typer.echo(say("export.written.original", path=done.folder, layers=done.layers, rank=done.rank))


def _picture_layout(base: str | None, loras: list[str], output: Path, to: str) -> None:
    """A picture LoRA for programs that read one of the layouts only."""
    from lora_scripts.toolbox.convert_layout import export_diffusers, export_kohya

    if len(loras) != 1:
        raise typer.BadParameter(say("export.one_lora"), param_hint="--lora")
    if to == "kohya":
        done = export_kohya(base, loras[0], output)
        typer.echo(say("export.written.kohya", path=done.path, layers=done.layers))
    else:
        done = export_diffusers(base, loras[0], output)
        typer.echo(say("export.written.diffusers", path=done.path, layers=done.layers))
    largest, relative = f"{done.proof.largest:.2g}", f"{done.proof.relative:.2g}"
    typer.echo(say("pictures.proven", largest=largest, relative=relative))
