"""Captions that are there already, and what becomes of each: kept, made anew, or joined with new words."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lora_scripts.core.problems import Problem, errors
from lora_scripts.data.captions import clean, is_empty
from lora_scripts.data.folder import Found, PictureFolder
from lora_scripts.data.manifest import METADATA_NAMES
from lora_scripts.data.rows import read_rows

from .caption_files import captions_beside
from .record import Record

Mode = Literal["keep", "append", "prepend", "overwrite"]


def elsewhere(folder: PictureFolder, output: Path) -> tuple[dict[str, str], list[Problem]]:
    """Captions of the folder's pictures that do not stand in ``output``, as training would find them: of its
    ``metadata.csv``, else ``metadata.jsonl``, else the files beside the pictures. And what is wrong there."""
    found: dict[str, str] = {}
    problems: list[Problem] = []
    names = {path: name for name, path in folder.pictures.items()}
    for file in (folder.root / name for name in METADATA_NAMES):
        if not file.is_file() or file.resolve() == output.resolve():
            continue
        rows, wrong = read_rows(file)
        problems += [problem for problem in wrong if problem.code != "LS2009"]
        for row in rows:
            picture = folder.find(row.name, file.parent)
            name = names.get(picture.path) if isinstance(picture, Found) else None
            if name is not None and not is_empty(row.caption):
                found.setdefault(name, clean(row.caption))
    if output.resolve() != folder.root.resolve():
        beside, wrong = captions_beside(folder)
        problems += wrong
        for name, caption in beside.items():
            if not is_empty(caption):
                found.setdefault(name, caption)
    return found, errors(problems)


@dataclass
class Decisions:
    """``make``: pictures to caption, each with the caption that it has ("" for none). ``put``: captions that
    stand elsewhere and go into the output as they are. ``by_hand``: those that ``overwrite`` left alone."""

    make: dict[str, str] = field(default_factory=dict)
    put: dict[str, str] = field(default_factory=dict)
    kept: int = 0
    by_hand: list[str] = field(default_factory=list)


def decide(
    folder: PictureFolder,
    here: dict[str, str],
    other: dict[str, str],
    record: Record,
    mode: Mode,
    edited: bool = False,
) -> Decisions:
    """``here``: what the output holds; ``other``: what stands elsewhere. With ``edited``, captions that were
    changed by hand since they were written are made anew as well."""
    result = Decisions()
    for name in folder.pictures:
        entry = record.entries.get(name)
        text = here.get(name)
        if entry and entry.pending and (text is None or clean(text) == clean(entry.before or "")):
            # The program died between making these words and writing them into the output.
            result.put[name] = text = entry.text
        has = text is not None and not is_empty(text)
        if not has and name in other:
            result.put[name] = text = other[name]
            has = True
        ours = entry is not None and clean(text or "") == clean(entry.text)
        if name in record.current:
            result.kept += 1
        elif not has:
            result.make[name] = ""
        elif mode == "keep" or (mode in ("append", "prepend") and _joined(record, name)):
            result.kept += 1
        elif mode == "overwrite" and record.knew and not ours and not edited:
            result.kept += 1
            result.by_hand.append(name)
        else:
            result.make[name] = text or ""
    return result


def _joined(record: Record, name: str) -> bool:
    """Whether the same command has put its words to this picture's before."""
    return name in record.entries and record.entries[name].settings == record.settings
