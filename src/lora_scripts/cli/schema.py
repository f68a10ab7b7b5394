"""``lora-scripts schema``: the JSON schema of the configuration, or its reference page."""

from __future__ import annotations

from typing import Annotated

import typer

from lora_scripts.core.catalogue import language, say


def schema(
    markdown: Annotated[bool, typer.Option("--markdown", help=say("cli.schema.markdown"))] = False,
) -> None:
    import json

    from lora_scripts.config.reference import json_schema, reference_markdown

    if markdown:
        typer.echo(reference_markdown())
    else:
        typer.echo(json.dumps(json_schema(language()), indent=2, ensure_ascii=False))
