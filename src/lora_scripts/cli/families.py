"""``lora-scripts families``: the kinds of base models, what each can do, and where it cannot, why."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lora_scripts.core.catalogue import say

if TYPE_CHECKING:
    from lora_scripts.families._base import Sheet

COLUMNS = ("name", "title", "task", "yes", "no", "fits")
BITS = ("none", "8bit", "4bit")


def families(as_json: Annotated[bool, typer.Option("--json", help=say("inspect.json"))] = False) -> None:
    if as_json:
        typer.echo(json.dumps([facts(sheet) for sheet in sheets()], ensure_ascii=False, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(show_lines=True)
    for column in COLUMNS:
        table.add_column(say(f"families.column.{column}"), overflow="fold")
    for sheet in sheets():
        table.add_row(*_cells(sheet))
    Console(markup=False, highlight=False).print(table)


def sheets() -> list[Sheet]:
    """The data sheets of all families, those for pictures first."""
    from lora_scripts.families._source import family_named, family_names

    found = [family_named(name).sheet for name in family_names()]
    return sorted(found, key=lambda sheet: sheet.task != "image-generation")


def facts(sheet: Sheet) -> dict[str, Any]:
    """One family for programs: ``supports`` holds true, or the reason why not."""
    from lora_scripts.families._base import Unsupported

    supports = {
        feature: say(told.reason) if isinstance(told, Unsupported) else told
        for feature, told in sheet.supports.items()
    }
    return {
        "name": sheet.name,
        "title": sheet.title,
        "task": sheet.task,
        "resolution": sheet.resolution or None,
        "components": list(sheet.components),
        "trains": [sheet.predictor, *(sheet.text_encoders if supports.get("text_encoder_training") else ())],
        "supports": supports,
        "fits": computed_fits().get(sheet.name, []),
    }


def computed_fits() -> dict[str, list[dict[str, Any]]]:
    """Family -> its published bases with the smallest card in GB by quantisation, 0 where 24 GB do not do;
    what ``scripts/fits.py`` computed."""
    from importlib.resources import files

    found: dict[str, list[dict[str, Any]]] = json.loads(
        (files("lora_scripts.families") / "data" / "fits.json").read_text(encoding="utf-8")
    )
    return found


def _fits(name: str, lang: str | None) -> str:
    lines = []
    for told in computed_fits().get(name, []):
        cards = [
            say("families.fits.card" if told["cards"][bits] else "families.fits.none", lang,
                bits=bits, size=told["cards"][bits])
            for bits in BITS
        ]  # fmt: skip
        lines.append(say("families.fits", lang, base=told["base"], side=told["side"], cards=", ".join(cards)))
    return say("families.separator", lang).join(lines)


def _cells(sheet: Sheet, lang: str | None = None) -> tuple[str, ...]:
    from lora_scripts.families._base import Unsupported

    yes: list[str] = []
    no: list[str] = []
    for feature, told in sheet.supports.items():
        label = say(f"families.feature.{feature}", lang)
        if isinstance(told, Unsupported):
            no.append(say("families.why", lang, feature=label, reason=say(told.reason, lang)))
        else:
            (yes if told else no).append(label)
    side = say("families.side", lang, side=sheet.resolution) if sheet.resolution else ""
    separator = say("families.separator", lang)
    title, task = sheet.named(lang) + side, say(f"families.task.{sheet.task}", lang)
    return sheet.name, title, task, separator.join(yes), separator.join(no), _fits(sheet.name, lang)


def families_markdown(lang: str | None = None) -> str:
    """The same table as a page, for ``docs/families.md``."""
    lines = [f"# {say('families.title', lang)}", "", say("families.intro", lang), ""]
    heads = [say(f"families.column.{column}", lang) for column in COLUMNS]
    lines += [f"| {' | '.join(heads)} |", "|" + "---|" * len(COLUMNS)]
    for sheet in sheets():
        name, *cells = _cells(sheet, lang)
        lines.append(f"| {' | '.join([f'`{name}`', *cells])} |")
    return "\n".join([*lines, "", say("families.outro", lang), ""])
