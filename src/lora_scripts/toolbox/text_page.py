"""One HTML page of what a model answered while it learnt: self-contained, no script, safe with any text."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from lora_scripts.core.catalogue import language, say
from lora_scripts.core.files import write_atomic

TAGS = {"en": "en", "zh": "zh-Hans"}
INVISIBLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
"""Control characters and halves of characters: no page may hold them."""
STYLE = """
:root { color-scheme: light dark; --ground: #fff; --raised: #f4f5f7; --line: #d5d9e0; --ink: #1b1f27;
  --soft: #5b6472; --mark: #0b6bcb; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171c; --raised: #1d2128; --line: #363c47;
  --ink: #e7eaf0; --soft: #a3adbb; --mark: #7ab8ff; } }
* { box-sizing: border-box; }
body { margin: 0; padding: 1.5rem; background: var(--ground); color: var(--ink);
  font: 1rem/1.55 system-ui, "Segoe UI", "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", sans-serif; }
h1 { margin: 0 0 .25rem; font-size: 1.35rem; overflow-wrap: anywhere; }
p { margin: 0 0 1.25rem; color: var(--soft); }
.frame { overflow: auto; max-height: calc(100vh - 8rem); border: 1px solid var(--line);
  border-radius: .5rem; }
table { border-collapse: separate; border-spacing: 0; }
th, td { min-width: 16rem; max-width: 28rem; padding: .7rem .9rem; border-bottom: 1px solid var(--line);
  border-right: 1px solid var(--line); text-align: start; vertical-align: top; white-space: pre-wrap;
  overflow-wrap: anywhere; unicode-bidi: plaintext; }
tr > :last-child { border-right: 0; }
tbody tr:last-child > * { border-bottom: 0; }
thead th { position: sticky; top: 0; z-index: 1; background: var(--raised); color: var(--mark);
  font-variant-numeric: tabular-nums; }
tbody th, thead th:first-child { position: sticky; left: 0; background: var(--raised); font-weight: 600; }
thead th:first-child { z-index: 2; color: var(--soft); }
tbody th { min-width: 12rem; max-width: 18rem; }
td.same { color: var(--soft); }
@media (max-width: 40rem) { body { padding: .75rem; } th, td { min-width: 11rem; padding: .5rem .6rem; }
  tbody th { min-width: 8rem; max-width: 10rem; } }
@media print { .frame { overflow: visible; max-height: none; } }
"""


def _text(text: str) -> str:
    return html.escape(INVISIBLE.sub("\ufffd", text))


def _head(step: int) -> str:
    return say("talk.page.before") if step == 0 else say("talk.page.step", step=step)


def _cells(texts: Sequence[str | None]) -> str:
    """A prompt's answers; one that is the same as at the step before is drawn softly."""
    cells = []
    for number, text in enumerate(texts):
        same = ' class="same"' if number and text is not None and text == texts[number - 1] else ""
        cells.append(f'<td dir="auto"{same}>{_text(text or "")}</td>')
    return "".join(cells)


def sentences_html(prompts: Sequence[str], columns: Mapping[int, Sequence[str | None]], title: str) -> str:
    """The page of ``sentences_page`` as text."""
    ordered = sorted(columns)
    heads = "".join(f'<th scope="col">{_text(_head(step))}</th>' for step in ordered)
    rows = "".join(
        f'<tr><th scope="row" dir="auto">{_text(prompt)}</th>'
        f"{_cells([columns[step][i] for step in ordered])}</tr>\n"
        for i, prompt in enumerate(prompts)
    )
    return f"""<!doctype html>
<html lang="{TAGS[language()]}">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_text(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1 dir="auto">{_text(title)}</h1>
<p>{_text(say("talk.page.about"))}</p>
<div class="frame" tabindex="0" role="region" aria-label="{_text(title)}">
<table>
<thead><tr><th scope="col">{_text(say("talk.page.prompt"))}</th>{heads}</tr></thead>
<tbody>
{rows}</tbody>
</table>
</div>
</body>
</html>
"""


def sentences_page(
    path: Path,
    prompts: Sequence[str],
    columns: Mapping[int, Sequence[str | None]],
    *,
    title: str | None = None,
) -> None:
    """Writes the page atomically: a row for each prompt, a column for each step, 0 being the bare base.

    ``columns``: step -> answers in the order of ``prompts``, None where one was not asked then.
    """
    write_atomic(path, sentences_html(prompts, columns, title or say("talk.page.title")))
