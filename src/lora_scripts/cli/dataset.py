"""``lora-scripts dataset check DIR``: the data doctor's page and JSON on a folder of pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from lora_scripts.core.catalogue import exit_code, say

if TYPE_CHECKING:
    from lora_scripts.doctor.report import Settings

ACTIONS = ("check",)
Config = Annotated[Path | None, typer.Option("--config", metavar="FILE", help=say("doctor.config"))]
Output = Annotated[Path | None, typer.Option("--output", metavar="FOLDER", help=say("doctor.output"))]
Trigger = Annotated[str | None, typer.Option("--trigger", metavar="NAME", help=say("doctor.trigger"))]


def _known(action: str) -> str:
    if action not in ACTIONS:
        raise typer.BadParameter(say("doctor.action.known", name=action))
    return action


def dataset(
    action: Annotated[str, typer.Argument(metavar="check", callback=_known, help=say("doctor.action"))],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help=say("doctor.folder"))],
    config: Config = None,
    output: Output = None,
    trigger: Trigger = None,
    as_json: Annotated[bool, typer.Option("--json", help=say("doctor.json"))] = False,
    crops: Annotated[bool, typer.Option("--crops", help=say("doctor.crops"))] = False,
) -> int:
    from rich.console import Console

    folder = folder.expanduser()
    settings = settings_for(folder, config, trigger=trigger, crops=crops)

    from lora_scripts.core.catalogue import fix, message
    from lora_scripts.doctor import examine, page
    from lora_scripts.doctor.as_json import report_json

    from .progress import phase_bar

    place = output.expanduser() if output else page.place_for(folder, Path.cwd())
    if page.is_inside(place, folder):
        raise typer.BadParameter(say("doctor.inside", output=place), param_hint="--output")
    with phase_bar(Console(stderr=True)) as progress:
        report = examine(folder, settings=settings, progress=progress)
        written = page.write(report, place)
    if as_json:
        typer.echo(json.dumps(report_json(report), ensure_ascii=False, indent=1))
        return exit_code(report.problems)
    typer.echo(
        say(
            "doctor.looked",
            named=report.named,
            folder=folder,
            usable=report.usable,
            captioned=report.captioned,
        )
    )
    for finding in report.findings:
        mark = say(f"doctor.severity.{finding.severity}")
        problem = finding.problem
        typer.echo(f"{problem.code} [{mark}] {message(problem)}\n    → {fix(problem)}")
    typer.echo(page.verdict(report)[1])
    typer.echo(say("doctor.written", page=written))
    return exit_code(report.problems)


def settings_for(
    folder: Path, config: Path | None, *, trigger: str | None = None, crops: bool = False
) -> Settings:
    """What ``config`` says about the pictures in ``folder``, or what a run would take without one."""
    from dataclasses import replace

    from lora_scripts.doctor.report import Settings

    plain = Settings(trigger=trigger, crops=crops)
    if config is None:
        return plain

    from lora_scripts.config.load import load_config
    from lora_scripts.config.schema import DatasetEntry
    from lora_scripts.core.problems import ProblemsError
    from lora_scripts.families._base import ImageFamily
    from lora_scripts.families._source import find, resolve
    from lora_scripts.preflight.checks.picture_sets import picture_sets
    from lora_scripts.preflight.prepare import FALLBACK_MULTIPLE, FALLBACK_RESOLUTION

    loaded = load_config(config)
    mine = [each for each in picture_sets(loaded) if each.folder.resolve() == folder.resolve()]
    if not mine:
        entry = DatasetEntry(path=str(folder))
        mine = picture_sets(loaded.model_copy(update={"datasets": [entry], "train_data_dir": str(folder)}))
    resolution, step = FALLBACK_RESOLUTION, FALLBACK_MULTIPLE
    try:
        source = resolve(loaded.base_model)
        family = cast(ImageFamily, find(loaded.family, source))
        described = family.describe(source, components=loaded.components)
        resolution, step = described.resolution, described.size_multiple
    except ProblemsError:
        pass  # pictures can be judged without the base; what is wrong with it is said by `check`
    own = loaded.resolution[0] if isinstance(loaded.resolution, list) else loaded.resolution
    return replace(
        plain,
        metadata=mine[0].metadata,
        exclude=(Path(loaded.output_dir).expanduser(),),
        strict=loaded.strict,
        background=loaded.background,
        on_bad=loaded.on_bad_image,
        on_animation=loaded.on_animation,
        wording=mine[0].handling.wording,
        max_caption_tokens=loaded.max_caption_tokens,
        resolution=own if isinstance(own, int) else resolution,
        step=step,
        repeats=mine[0].repeats,
        batch_size=loaded.batch_size,
        accumulation=loaded.gradient_accumulation_steps,
        seed=loaded.seed,
    )
