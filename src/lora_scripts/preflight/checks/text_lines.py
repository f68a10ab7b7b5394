"""What a text run's plan says before it starts: numbers, and proofs on the user's own rows."""

from __future__ import annotations

import os
import sys
from itertools import islice, pairwise
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from lora_scripts.core.catalogue import say
from lora_scripts.data.text_files import listing, printable
from lora_scripts.data.text_forms import form_title
from lora_scripts.families import _shared_beginnings as beginnings
from lora_scripts.families._encode import CUT, DOCUMENT, ENDS

if TYPE_CHECKING:
    from .texts import TextReport

SHOWN_TOKENS = 160
"""Tokens of the example at most: half of them around the first place that is learnt."""
LOOKED_AT = 200
"""Micro-batches whose rows are compared."""
HALF = "\N{REPLACEMENT CHARACTER}"
COLOUR, PLAIN = ("\x1b[32m", "\x1b[0m"), ("⟦", "⟧")


def lines(report: TextReport) -> list[str]:
    if report.plan is None:
        return [say("chat.plan.nothing", source=report.source)]
    return [
        *_data(report),
        *_template(report),
        *_happened(report),
        *_proofs(report),
        *_steps(report),
    ]


def _data(report: TextReport) -> list[str]:
    about, held = report.built.about, len(report.validation)
    found = [
        say("chat.plan.file", file=name, form=form_title(form), count=about["counts"].get(name, 0))
        for name, form in about["forms"].items()
    ]
    if about["left_out"]:
        found.append(say("chat.plan.left_out", count=about["left_out"]))
    training = say("chat.plan.training", count=len(report.train))
    validation = (
        say("chat.plan.validation_folder", count=held, source=report.validation_source)
        if report.validation_source
        else say("chat.plan.held_out", count=held)
    )
    return [*found, f"{training} {validation}"]


def _template(report: TextReport) -> list[str]:
    chat, found = report.chat, []
    flags = report.table.flags[report.train]
    if (flags & DOCUMENT).all():
        return [say("chat.plan.documents")]
    if chat.asked:
        found.append(say("chat.plan.template_asked", name=chat.asked))
    elif chat:
        found.append(say("chat.plan.template_own"))
    else:
        found.append(say("chat.plan.template_none"))
    if report.system:
        found.append(say("chat.plan.system_given", text=printable(report.system)))
    elif chat.default_system:
        found.append(say("chat.plan.system_default", text=printable(chat.default_system)))
    if chat.empty_think != "none":
        found.append(say(f"chat.plan.think_{chat.empty_think}_{chat.thinking}"))
    if chat.dated:
        found.append(say("chat.plan.dated"))
    return found


def _happened(report: TextReport) -> list[str]:
    """What was done to rows, other than to long ones, which are warned about by name."""
    tallies = report.built.about["tallies"]
    found = []
    for kind in ("apart", "crossed"):
        tally = tallies[kind]
        if tally["count"]:
            names = listing([PurePath(place).name for place in tally["places"]], 3)
            told = {"count": tally["count"], "names": names}
            found.append(say(f"chat.plan.{kind}", **told))
    return found


def _proofs(report: TextReport) -> list[str]:
    table, rows = report.table, report.train
    learnt, lengths, flags = table.loss_tokens[rows], table.lengths[rows], table.flags[rows]
    total = int(report.built.tokens[rows].sum())
    told: dict[str, Any] = {
        "learnt": f"{int(learnt.sum()):,}",
        "total": f"{total:,}",
        "share": f"{100 * int(learnt.sum()) / max(1, total):.0f}",
        "longest": int(lengths.max(initial=0)),
        "limit": report.max_length,
        "context": report.context,
    }
    found = [say("chat.plan.tokens", **told), say("chat.plan.lengths", **told)]
    ended = (flags & ENDS) != 0
    if ended.any():
        names = [str(report.chat.tokenizer.convert_ids_to_tokens(n)) for n, _ in report.built.about["ends"]]
        told = {"token": listing(names, 3), "count": int(ended.sum()), "rows": len(rows)}
        found.append(say("chat.plan.end", **told))
    cut = int(((flags & CUT) != 0).sum())
    if cut:
        found.append(say("chat.plan.cut", count=cut))
    row = table.row(int(rows[0]))
    found += [
        say("chat.plan.example", place=table.place(int(rows[0]))),
        _marked(report, row.ids, row.targets),
    ]
    if row.rejected_ids is not None and row.rejected_targets is not None:
        found += [say("chat.plan.rejected"), _marked(report, row.rejected_ids, row.rejected_targets)]
    return found


def _marked(report: TextReport, ids: np.ndarray, targets: np.ndarray) -> str:
    """A row as text, with what is learnt between marks: in colour on a terminal."""
    tokenizer, length = report.chat.tokenizer, len(ids)
    coloured = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    begin, end = COLOUR if coloured else PLAIN
    first = int(np.argmax(targets)) if targets.any() else 0
    start = max(0, min(first - SHOWN_TOKENS // 2, length - SHOWN_TOKENS))
    ids, targets = ids[start : start + SHOWN_TOKENS], targets[start : start + SHOWN_TOKENS]
    edges = [0, *(np.flatnonzero(np.diff(targets.astype(np.int8))) + 1).tolist(), len(ids)]
    parts = ["…"] if start else []
    for left, right in pairwise(edges):
        text = tokenizer.decode(ids[left:right])
        # A token at the edge of what is shown may be a part of a character.
        text = text.lstrip(HALF) if start and not left else text
        text = text.rstrip(HALF) if start + len(ids) < length and right == len(ids) else text
        # Text of a file goes to the terminal: what could command it is shown as a space.
        text = "".join(char if char == "\n" or char.isprintable() else " " for char in text)
        parts.append(f"{begin}{text}{end}" if right > left and targets[left] else text)
    parts += ["…"] if start + SHOWN_TOKENS < length else []
    return "\n".join(f"    {line}" for line in "".join(parts).split("\n"))


def _steps(report: TextReport) -> list[str]:
    plan = report.plan
    assert plan is not None
    (mean, wasted), saved = micro_batches(report), shared_tokens(report)
    told: dict[str, Any] = {
        "count": len(report.train),
        "batch": plan.batch_size,
        "accumulation": plan.accumulation,
        "windows": plan.windows_per_epoch,
        "epochs": report.total_epochs,
        "total": report.total_steps,
        "rounds": f"{report.total_steps / plan.windows_per_epoch:.1f}",
        "mean": f"{mean:,.0f}",
        "share": f"{100 * wasted:.0f}",
        "saved": f"{100 * saved:.0f}",
    }
    by = "max_steps" if report.max_steps else "epochs"
    packed = "packed" if report.packing else "padded"
    return [
        say("chat.plan.objective", objective=report.objective),
        say("chat.plan.windows", **told),
        say(f"chat.plan.steps_by_{by}", **told),
        say(f"chat.plan.micro_batches_{packed}", **told),
        *([say("chat.plan.shared", **told)] if told["saved"] != "0" else []),
    ]


def micro_batches(report: TextReport) -> tuple[float, float]:
    """Tokens of the user's in a micro-batch on average, and the share of its places that is padding, in the
    first epoch. A pair is counted as two rows of the longer one's length."""
    plan, lengths = report.plan, report.table.lengths[report.train].astype(np.int64)
    assert plan is not None
    used = float(report.built.tokens[report.train].mean())
    if report.packing:
        return used * min(plan.batch_size, len(lengths)), 0.0
    widths = [(len(batch), int(lengths[list(batch.indices)].max())) for w in plan.epoch(0) for batch in w]
    places = sum(count * width for count, width in widths)
    return used * len(lengths) / len(widths), 1 - int(lengths.sum()) / places


def shared_tokens(report: TextReport) -> float:
    """Which share of the rows' tokens need not be computed, since another row of the micro-batch begins with
    them too: in the first micro-batches."""
    if not report.sharing or report.plan is None:
        return 0.0
    all_tokens = laid = 0
    for micro in islice((micro for window in report.plan.epoch(0) for micro in window), LOOKED_AT):
        found = [report.table.row(int(report.train[index])) for index in micro.indices]
        rows = [ids.tolist() for row in found for ids in (row.ids, row.rejected_ids) if ids is not None]
        all_tokens += sum(map(len, rows))
        laid += beginnings.shared(rows).tokens
    return 1 - laid / all_tokens
