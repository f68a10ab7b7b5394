"""``lora-scripts import-config``: the settings of sd-scripts or kohya_ss as a configuration of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lora_scripts.core.catalogue import say


def import_config(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help=say("import.files"))],
    output: Annotated[Path | None, typer.Option("--output", "-o", help=say("import.output"))] = None,
) -> None:
    from lora_scripts.core.files import write_atomic
    from lora_scripts.core.problems import Location, Problem, ProblemsError
    from lora_scripts.toolbox.import_config import import_config as carry_out

    done = carry_out([file.expanduser() for file in files])
    if output is None:
        typer.echo(done.yaml, nl=False)
    else:
        place = output.expanduser()
        if place.exists():
            raise ProblemsError(Problem("LS4308", {"path": str(place)}, Location(str(place))))
        write_atomic(place, done.text)
        typer.echo(say("import.written", path=place))
    for kind in ("changed", "lost"):
        notes = [note for note in done.notes if note.kind == kind]
        if notes:
            typer.echo(say(f"import.title.{kind}", count=len(notes)), err=output is None)
        for note in notes:
            typer.echo(f"  {note.text}", err=output is None)
