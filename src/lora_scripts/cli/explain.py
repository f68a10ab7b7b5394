"""``lora-scripts explain LS1006``: what a code means, why it happens and an example."""

from __future__ import annotations

from typing import Annotated

import typer

from lora_scripts.core.catalogue import codes, entry, say


def explain(
    code: Annotated[str | None, typer.Argument(metavar="LSxxxx", help=say("cli.explain.code"))] = None,
) -> None:
    if code is None:
        for known in codes():
            typer.echo(f"{known}  {entry(known)['message']}")
        return
    wanted = code.strip().upper()
    if wanted not in codes():
        from lora_scripts.core.lookup import did_you_mean

        near = did_you_mean(wanted, [known.lower() for known in codes()])
        sentence = say("cli.explain.unknown", code=code)
        typer.echo(sentence + (say("cli.usage.near", near=near.upper()) if near else ""), err=True)
        raise typer.Exit(2)
    typer.echo(explanation(wanted))


def explanation(code: str, lang: str | None = None) -> str:
    """The catalogue's entry of ``code`` as a page of plain text."""
    text = entry(code, lang)
    parts = [f"{code}  {text['message']}", text["cause"], f"→ {text['fix']}"]
    return "\n\n".join([*parts, say("cli.explain.example", lang), _indented(text["example"])])


def _indented(text: str) -> str:
    return "\n".join("    " + line for line in text.strip("\n").splitlines())


def errors_markdown(lang: str | None = None) -> str:
    """The page of all codes, for ``docs/errors.md``."""
    lines = [f"# {say('errors.title', lang)}", "", say("errors.intro", lang), ""]
    group = ""
    for code in codes():
        if code[2] != group:
            group = code[2]
            lines += [f"## {say(f'errors.group.{group}', lang)}", ""]
        text = entry(code, lang)
        lines += [f"### {code}", "", f"**{_literal(text['message'])}**", "", _literal(text["cause"]), ""]
        lines += [f"→ {_literal(text['fix'])}", "", "```", text["example"].strip("\n"), "```", ""]
    return "\n".join(lines)


def _literal(text: str) -> str:
    """One line; angle brackets are placeholders or ``<lora:...>`` here, never HTML."""
    text = " ".join(text.split())
    return text.replace("<", "&lt;") if "`" not in text else text
