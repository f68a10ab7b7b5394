"""``lora-scripts generate``: pictures and strength grids with any number of LoRAs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from lora_scripts.core.catalogue import say

Quantization = Literal["none", "4bit", "8bit"]


def generate(
    prompt: Annotated[list[str], typer.Option("--prompt", "-p", help=say("generate.prompt"))],
    base: Annotated[str | None, typer.Option("--base", help=say("generate.base"))] = None,
    lora: Annotated[list[str] | None, typer.Option("--lora", help=say("generate.lora"))] = None,
    negative: Annotated[str, typer.Option("--negative", help=say("generate.negative"))] = "",
    seed: Annotated[int, typer.Option("--seed", min=0, help=say("generate.seed"))] = 42,
    count: Annotated[int, typer.Option("--count", min=1, help=say("generate.count"))] = 1,
    steps: Annotated[int, typer.Option("--steps", min=1, max=1000, help=say("generate.steps"))] = 25,
    guidance: Annotated[
        float | None, typer.Option("--guidance", min=0, help=say("generate.guidance"))
    ] = None,
    width: Annotated[int | None, typer.Option("--width", min=8, help=say("generate.size"))] = None,
    height: Annotated[int | None, typer.Option("--height", min=8, help=say("generate.size"))] = None,
    strengths: Annotated[str | None, typer.Option("--strengths", help=say("generate.strengths"))] = None,
    quantization: Annotated[
        Quantization | None, typer.Option("--quantization", help=say("generate.quantization"))
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help=say("generate.output"))] = Path(
        "output/pictures"
    ),
) -> None:
    from lora_scripts.toolbox.drawing import Drawing, draw

    wanted = Drawing(
        prompts=tuple(prompt),
        base=base,
        loras=tuple(lora or ()),
        negative=negative,
        seed=seed,
        count=count,
        steps=steps,
        guidance=guidance,
        width=width,
        height=height,
        strengths=strengths,
        quantization=quantization,
        output=output.expanduser(),
    )
    files = draw(
        wanted, progress=lambda done, total: typer.echo(say("generate.progress", done=done, total=total))
    )
    for file in files:
        typer.echo(say("generate.written", path=file))


def _tell(done: int, total: int) -> None:
    typer.echo(say("generate.progress", done=done, total=total))
