"""Writes the pages that are made from the schema and the catalogue: docs, and the editors' JSON schema.

A test compares what lies in the repository with `pages()`; run this (`make docs`) when the two differ.
"""

import json
from pathlib import Path

from lora_scripts.cli.explain import errors_markdown
from lora_scripts.cli.families import families_markdown
from lora_scripts.config.reference import json_schema, reference_markdown
from lora_scripts.core import events

ROOT = Path(__file__).resolve().parents[1]


def pages() -> dict[str, str]:
    """Path from the repository's root -> what stands in that file."""
    return {
        "docs/configuration.md": reference_markdown("en"),
        "docs/configuration.zh-CN.md": reference_markdown("zh"),
        "docs/errors.md": errors_markdown("en"),
        "docs/errors.zh-CN.md": errors_markdown("zh"),
        "docs/families.md": families_markdown("en"),
        "docs/families.zh-CN.md": families_markdown("zh"),
        "docs/events.schema.json": json.dumps(events.json_schema(), indent=1, ensure_ascii=False) + "\n",
        "configs/schema.json": json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n",
    }


def main() -> None:
    for name, text in pages().items():
        (ROOT / name).write_text(text, encoding="utf-8", newline="\n")
        print(name)


if __name__ == "__main__":
    main()
