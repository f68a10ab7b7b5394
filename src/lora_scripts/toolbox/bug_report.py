"""What a bug report needs, in one zip: gathered from a run's folder, and redacted before it is written.

Everything goes through ``Redaction``: secrets, the user's name and home, and, unless asked for, what the
user wrote about the pictures or to the model. Pictures, weights and data never come near it.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import distributions
from io import BytesIO
from pathlib import Path
from typing import Any

from lora_scripts.core.files import write_atomic
from lora_scripts.core.paths import RunFolder
from lora_scripts.core.problems import Location, Problem, ProblemsError

from .redaction import Redaction, private_texts

EVENTS_KEPT, LINES_KEPT, CRASHES_KEPT = 400, 400, 3
MOST_BYTES = 4 * 2**20
"""Of a file's end that are looked at."""


@dataclass(frozen=True)
class Entry:
    """``name`` in the zip, and bytes."""

    name: str
    size: int


def write_report(
    target: Path,
    environment: Iterable[str],
    run: Path | None = None,
    *,
    log: Path | None = None,
    crashes: Iterable[Path] = (),
    captions: bool = False,
) -> list[Entry]:
    """Writes ``target`` and returns what is in it.

    ``environment``: lines about this computer; ``run``: a run's folder; ``log``: what the program printed;
    ``crashes``: files that ``save_crash`` left. Raises ProblemsError: LS5020 no run, LS5021 not writable.
    """
    redaction = Redaction(private_texts(run) if run and not captions else (), captions=captions)
    texts = {"environment.txt": "\n".join(environment) + "\n", "packages.txt": _packages()}
    if run is not None:
        texts |= _of_run(run, redaction)
    if log is not None:
        texts["console.txt"] = _end_of(log, LINES_KEPT)
    for path in sorted(crashes, key=lambda path: path.name)[-CRASHES_KEPT:]:
        texts[f"crashes/{path.name}"] = _end_of(path, LINES_KEPT)
    clean = {name: redaction.text(text) for name, text in texts.items()}
    try:
        write_atomic(target, _zip(clean))
    except OSError as error:
        told = {"path": str(target), "reason": error.strerror or str(error)}
        raise ProblemsError(Problem("LS5021", told, Location(str(target)))) from error
    return [Entry(name, len(text.encode())) for name, text in clean.items()]


def _of_run(folder: Path, redaction: Redaction) -> dict[str, str]:
    run = RunFolder(folder, folder.name)
    if not run.config.is_file() and not run.events.is_file():
        raise ProblemsError(Problem("LS5020", {"path": str(folder)}, Location(str(folder))))
    found = {}
    if run.config.is_file():
        found["run/config.yaml"] = redaction.yaml(run.config.read_text("utf-8", "replace"))
    for path in (run.environment, run.result):
        if path.is_file():
            found[f"run/{path.name}"] = redaction.json(path.read_text("utf-8", "replace"))
    if run.events.is_file():
        lines = _end_of(run.events, EVENTS_KEPT).splitlines()
        found["run/events.jsonl"] = "".join(redaction.json(line, indent=None) for line in lines)
    found["run/files.txt"] = _listing(folder)
    return found


def _listing(folder: Path) -> str:
    """Names and sizes of what the run left, which tell whether something is missing; previews are counted."""
    names = []
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.is_file() and inside.parts[0] != "previews":
            names.append(f"{inside.as_posix()}  {path.stat().st_size}")
    return "\n".join(names) + "\n"


def _packages() -> str:
    known = {f"{found.metadata['Name']}=={found.version}" for found in distributions()}
    return "\n".join(sorted(known, key=str.lower)) + "\n"


def _end_of(path: Path, lines: int) -> str:
    with open(path, "rb") as handle:
        handle.seek(max(0, path.stat().st_size - MOST_BYTES))
        text = handle.read().decode("utf-8", "replace")
    return "\n".join(text.splitlines()[-lines:]) + "\n"


def _zip(texts: Mapping[str, str]) -> Any:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in texts.items():
            archive.writestr(name, text)
    return buffer.getvalue()
