"""The report for programs: one JSON object of a stated version, within which keys are only added.

See docs/check_data.md for the shape.
"""

from __future__ import annotations

from typing import Any

from ..core.catalogue import fix, language, message
from ..core.problems import Problem
from .report import Finding, Item, Report

FORMAT, VERSION = "lora-scripts-dataset-check", 1


def report_json(report: Report) -> dict[str, Any]:
    """Everything in ``report``, every picture of every finding included; sentences in the language in use."""
    settings = report.settings
    return {
        "format": FORMAT,
        "version": VERSION,
        "language": language(),
        "folder": str(report.folder),
        "captions_from": report.source,
        "stops_training": report.stops,
        "pictures": {"named": report.named, "usable": report.usable, "captioned": report.captioned},
        "settings": {
            "resolution": settings.resolution,
            "size_multiple": settings.step,
            "batch_size": settings.batch_size,
            "gradient_accumulation_steps": settings.accumulation,
            "max_caption_tokens": settings.max_caption_tokens,
            "trigger": settings.trigger or settings.wording.trigger,
            "crops": "cross-correlation" if settings.crops else None,
        },
        "findings": [_finding(finding) for finding in report.findings],
        "buckets": [
            {"width": each.width, "height": each.height, "pictures": each.pictures} for each in report.buckets
        ],
        "steps_per_epoch": report.windows,
        "longest_caption_tokens": report.tokens[0],
        "words": {
            "kind": "tags" if report.as_tags else "words",
            "different": report.different_words,
            "most_frequent": [{"text": text, "captions": count} for text, count in report.words],
        },
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "kind": finding.kind,
        **_problem(finding.problem),
        "groups": [[_item(item) for item in group] for group in finding.groups],
    }


def _problem(problem: Problem) -> dict[str, Any]:
    return {
        "code": problem.code,
        "severity": problem.severity,
        "message": message(problem),
        "fix": fix(problem),
    }


def _item(item: Item) -> dict[str, Any]:
    said: dict[str, Any] = {"name": item.name}
    if item.path is not None:
        said["path"] = str(item.path)
    if item.width:
        said |= {"width": item.width, "height": item.height}
    if item.problem is not None:
        said["problem"] = _problem(item.problem) | {"where": str(item.problem.where or "")}
    return said | dict(item.facts)
