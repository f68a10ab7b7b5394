"""``lora-scripts inspect FILE``: what a file is, which programs load it, the configuration that made it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lora_scripts.core.catalogue import say

if TYPE_CHECKING:
    from lora_scripts.toolbox.inspect import Report


def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help=say("inspect.file"))],
    config: Annotated[bool, typer.Option("--config", help=say("inspect.config"))] = False,
    as_json: Annotated[bool, typer.Option("--json", help=say("inspect.json"))] = False,
) -> None:
    from lora_scripts.toolbox.inspect import config_yaml, inspect_file

    report = inspect_file(file.expanduser())
    if config:
        typer.echo(config_yaml(report), nl=False)
    elif as_json:
        typer.echo(json.dumps(report.to_json(), ensure_ascii=False, indent=2))
    else:
        typer.echo("\n".join(report_lines(report)))


LONGEST = 2000
"""Characters of a line: names and metadata are whatever the file says."""


def report_lines(report: Report) -> list[str]:
    """The report as lines of text in the language in use, with nothing in it that a terminal obeys."""
    from lora_scripts.data.text_files import printable

    return [printable(line, LONGEST) for line in _lines(report)]


def _lines(report: Report) -> list[str]:
    from lora_scripts.families._signatures import title

    kind = title(report.kind) or say("model.kind.unknown")
    size = f"{report.bytes / 2**20:.1f}"
    lines = [say("inspect.what", path=report.path, kind=kind, size=size, dtypes=", ".join(report.dtypes))]
    if report.kind == "lora":
        lines += _lora_lines(report)
    if report.kind == "embedding":
        lines += _embedding_lines(report)
    if report.config is not None:
        lines.append(say("inspect.has_config", path=report.path))
    return lines


def _lora_lines(report: Report) -> list[str]:
    from lora_scripts.families._signatures import title

    base = title(report.base) or say("model.kind.unknown")
    lines = [say("inspect.base", base=base, layout=say(f"inspect.layout.{report.layout or 'unknown'}"))]
    if report.name:
        lines.append(say("inspect.name", name=report.name))
    ranks = ", ".join(map(str, report.ranks)) or "-"
    alphas = ", ".join(f"{alpha:g}" for alpha in report.alphas) or "-"
    modules = ", ".join(f"{name}: {count}" for name, count in sorted(report.modules.items())) or "-"
    lines += [say("inspect.rank", rank=ranks, alpha=alphas), say("inspect.modules", modules=modules)]
    if report.trigger_words:
        lines.append(say("inspect.trigger", words=report.trigger_words))
    lines += [say(f"inspect.fact.{name}", value=value) for name, value in report.facts.items()]
    return lines + _client_lines(report)


def _embedding_lines(report: Report) -> list[str]:
    from lora_scripts.families._signatures import title

    base = title(report.base) or say("model.kind.unknown")
    named = ", ".join(f"{name}: {count}" for name, count in sorted(report.modules.items()))
    layout = say(f"inspect.embedding.{report.layout}")
    lines = [say("inspect.base", base=base, layout=layout), say("inspect.vectors", vectors=named)]
    return lines + _client_lines(report)


def _client_lines(report: Report) -> list[str]:
    lines = [say("inspect.clients")]
    for client, verdict in report.clients.items():
        reason = f" ({say(verdict.reason)})" if verdict.reason else ""
        lines.append(f"  {client}: {say(f'inspect.answer.{verdict.answer}')}{reason}")
    return lines
