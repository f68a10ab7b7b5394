"""One HTML page of what the doctor found: self-contained, no script, safe with any name or caption."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

from ..core.catalogue import entry, fix, language, message, say
from ..core.files import write_atomic
from ..core.problems import Location, Problem, ProblemsError
from .as_json import report_json
from .report import Finding, Item, Report
from .style import STYLE
from .thumbnails import Thumbnails

PAGE, DATA = "report.html", "report.json"
SHOWN = 36
"""Groups of a finding that the page shows; the JSON holds all of them."""
IN_GROUP = 8
ROWS = 24
LISTED_KINDS = ("reader",)
"""Findings of rows and files that have no picture to show."""
_TAGS = {"en": "en", "zh": "zh-Hans"}
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def place_for(folder: Path, base: Path) -> Path:
    """Where a report on ``folder`` belongs by default: below ``base``, or beside the data."""
    data = folder.resolve()
    name = data.name or "data"
    chosen = base / "output" / "dataset-check" / name
    return data.parent / f"{name}-dataset-check" if is_inside(chosen, folder) else chosen


def is_inside(output: Path, folder: Path) -> bool:
    return output.resolve().is_relative_to(folder.resolve())


def write(report: Report, folder: Path) -> Path:
    """Writes ``report.html`` and ``report.json`` into ``folder``, each atomically; returns the page's path.

    Raises ``ProblemsError`` where ``folder`` lies inside the data, which nothing is ever written to.
    """
    if is_inside(folder, report.folder):
        raise ProblemsError(Problem("LS3216", {"output": str(folder)}, Location(str(folder))))
    text = json.dumps(report_json(report), ensure_ascii=False, indent=1).encode("utf-8", "replace")
    write_atomic(folder / DATA, text + b"\n")
    write_atomic(folder / PAGE, page_html(report).encode("utf-8", "replace"))
    return folder / PAGE


def _text(text: object) -> str:
    return html.escape(_INVISIBLE.sub("\ufffd", str(text)))


def page_html(report: Report) -> str:
    """The page as text, in the language in use."""
    title = say("doctor.title", name=report.folder.resolve().name or str(report.folder))
    small = Thumbnails(report.settings.background)
    found = "\n".join(_finding(each, small) for each in report.findings)
    if found:
        found = f"<h2>{_text(say('doctor.findings'))}</h2>\n{found}"
    return f"""<!doctype html>
<html lang="{_TAGS[language()]}">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_text(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<header>
<h1 dir="auto">{_text(title)}</h1>
<p class="soft">{_text(report.folder)}</p>
</header>
<main>
{_summary(report)}
{found}
<div class="two">
{_buckets(report)}
{_words(report)}
</div>
</main>
<footer class="soft"><p>{_text(say("doctor.foot"))}</p></footer>
</body>
</html>
"""


def verdict(report: Report) -> tuple[str, str]:
    """``error``, ``warning`` or ``fine``, and one sentence."""
    if report.stops:
        return "error", say("doctor.verdict.stops")
    if report.alarms:
        return "warning", say("doctor.verdict.alarms", count=len(report.alarms))
    return "fine", say("doctor.verdict.clean")


def _summary(report: Report) -> str:
    kind, sentence = verdict(report)
    settings = report.settings
    numbers = (
        (say("doctor.number.named"), report.named),
        (say("doctor.number.usable"), report.usable),
        (say("doctor.number.captioned"), report.captioned),
        (say("doctor.number.windows"), report.windows),
    )
    boxes = "".join(f"<div><dt>{_text(name)}</dt><dd>{value}</dd></div>" for name, value in numbers)
    lines = [
        say("doctor.judged_at", resolution=settings.resolution, batch=settings.batch_size),
        say("doctor.captions_from", source=report.source),
    ]
    if report.tokens[0]:
        lines.append(say("doctor.longest", tokens=report.tokens[0], limit=report.tokens[1]))
    told: dict[str, Any] = {"count": report.with_trigger, "total": report.captioned}
    if settings.wording.trigger:
        lines.append(say("doctor.trigger_added", trigger=settings.wording.trigger, **told))
    elif settings.trigger:
        lines.append(say("doctor.trigger_in", trigger=settings.trigger, **told))
    if settings.crops:
        lines.append(say("doctor.crops_method"))
    listed = "".join(f'<p class="soft">{_text(line)}</p>' for line in lines)
    links = "".join(
        f'<li class="head">{_badge(each)}<a href="#{_anchor(each)}">{_text(message(each.problem))}</a></li>'
        for each in report.findings
    )
    contents = f'<ul class="toc" aria-label="{_text(say("doctor.summary"))}">{links}</ul>' if links else ""
    said = f'<p class="verdict {kind}">{_text(sentence)}</p>'
    return f'{said}\n<dl class="numbers">{boxes}</dl>\n{listed}\n{contents}'


def _anchor(finding: Finding) -> str:
    return f"{finding.kind}-{finding.severity}"


def _badge(finding: Finding) -> str:
    return (
        f'<span class="badge {finding.severity}">{_text(say(f"doctor.severity.{finding.severity}"))}</span>'
    )


def _finding(finding: Finding, small: Thumbnails) -> str:
    problem = finding.problem
    shown = finding.groups[:SHOWN]
    if finding.kind in LISTED_KINDS:
        body = '<ul class="lines">' + "".join(_line(item) for group in shown for item in group) + "</ul>"
    else:
        several = " several" if any(len(group) > 1 for group in shown) else ""
        groups = "".join(f'<li class="group">{_group(group, small)}</li>' for group in shown)
        body = f'<ul class="groups{several}">{groups}</ul>'
    rest = len(finding.groups) - len(shown)
    more = f'<p class="more">{_text(say("doctor.more", count=rest))}</p>' if rest else ""
    why = entry(problem.code)["cause"]
    return f"""<section class="finding" id="{_anchor(finding)}">
<div class="head">{_badge(finding)}<h3>{_text(message(problem))}</h3></div>
<p class="todo">{_text(fix(problem))}</p>
<details><summary>{_text(say("doctor.why"))}</summary><p>{_text(why)}</p><p>{problem.code}</p></details>
{body}
{more}
</section>"""


def _group(group: tuple[Item, ...], small: Thumbnails) -> str:
    figures = "".join(_figure(item, small) for item in group[:IN_GROUP])
    rest = len(group) - IN_GROUP
    return figures + (f'<p class="more">{_text(say("doctor.more", count=rest))}</p>' if rest > 0 else "")


def _figure(item: Item, small: Thumbnails) -> str:
    address = small.of(item.path) if item.path is not None and item.problem is None else None
    if address is not None:
        alt = say("doctor.alt", name=item.name, width=item.width, height=item.height)
        inner = f'<img src="{address}" alt="{_text(alt)}">'
    else:
        inner = _text(say("doctor.no_picture"))
    facts = [f"{item.width} × {item.height}"] if item.width else []
    facts += [say(f"doctor.fact.{key}", value=value) for key, value in item.facts.items()]
    if item.problem is not None:
        facts += [message(item.problem), "→ " + fix(item.problem)]
    told = "".join(f'<span dir="auto">{_text(fact)}</span>' for fact in facts)
    return (
        f'<figure><div class="frame">{inner}</div>'
        f'<figcaption><b dir="auto">{_text(item.name)}</b>{told}</figcaption></figure>'
    )


def _line(item: Item) -> str:
    problem = item.problem
    if problem is None:
        return f'<li dir="auto">{_text(item.name)}</li>'
    where = f'<p class="soft" dir="auto">{_text(item.name)} {problem.code}</p>'
    return f'<li>{where}<p>{_text(message(problem))}</p><p class="todo">{_text(fix(problem))}</p></li>'


def _bar(count: int, most: int) -> str:
    return f'<i style="width: {count / most * 60:.0f}%" aria-hidden="true"></i>{count}'


def _table(title: str, about: str, heads: tuple[str, str], rows: list[tuple[str, int]], rest: str) -> str:
    most = max(count for _, count in rows)
    body = "".join(
        f'<tr><td dir="auto">{_text(name)}</td><td class="count">{_bar(count, most)}</td></tr>'
        for name, count in rows
    )
    head = "".join(f'<th scope="col">{_text(name)}</th>' for name in heads)
    more = f'<p class="more">{_text(rest)}</p>' if rest else ""
    return f"""<section><h2>{_text(title)}</h2><p class="soft">{_text(about)}</p>
<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}</section>"""


def _buckets(report: Report) -> str:
    if not report.buckets:
        return ""
    about = say("doctor.buckets.about", batch=report.settings.batch_size)
    rows = [(f"{each.width} × {each.height}", each.pictures) for each in report.buckets]
    heads = (say("doctor.buckets.shape"), say("doctor.buckets.pictures"))
    return _table(say("doctor.buckets"), about, heads, rows, "")


def _words(report: Report) -> str:
    if not report.words:
        return ""
    title = say("doctor.words.tags") if report.as_tags else say("doctor.words.words")
    about = say("doctor.words.about", count=report.different_words)
    heads = (say("doctor.words.word"), say("doctor.words.captions"))
    rest = report.different_words - ROWS
    more = say("doctor.words.rest", count=rest) if rest > 0 else ""
    return _table(title, about, heads, list(report.words[:ROWS]), more)
