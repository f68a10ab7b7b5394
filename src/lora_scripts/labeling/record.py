"""What this command wrote, beside its output: nothing is captioned twice and no hand-made word is lost.

``.metadata.csv.labels.jsonl`` has one JSON object on a line, each on disk as soon as its caption is made:

* ``{"v": 1, "settings", "said", "knew"}`` begins a run; ``settings`` is a hash of what was asked, ``said``
  its words, ``knew`` whether an earlier run had left a record;
* ``{"name", "text", "before"}`` is one caption; ``before``: the one whose place it took, if any;
* ``{"written": n}``: all before it stand in the output; ``{"finished": n}`` ends a run.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lora_scripts.core.files import write_atomic

SUFFIX = ".labels.jsonl"
SYNC_SECONDS = 1.0
"""How long a caption may wait for the disk itself; from the death of the program it is safe at once."""
VERSION = 1


@dataclass(frozen=True)
class Entry:
    """The newest caption of a picture. ``pending``: made, and not known to stand in the output."""

    text: str
    settings: str
    before: str | None = None
    pending: bool = False


class Record:
    """Opened for one run; raises OSError where it cannot be read or written."""

    def __init__(self, path: Path, settings: str, said: str = "") -> None:
        self.path, self.settings = path, settings
        self.entries: dict[str, Entry] = {}
        self.current: set[str] = set()
        """Pictures that this run has captioned, and the interrupted one that it goes on with."""
        self._pending: set[str] = set()
        self.goes_on = False
        self.knew = False
        whole = self._read()
        self._handle = open(path, "ab")  # noqa: SIM115 - held until ``close``
        if whole is not None:
            self._handle.truncate(whole)
        self._synced = time.monotonic()
        if not self.goes_on:
            self.current = set()
            self._append({"v": VERSION, "settings": settings, "said": said, "knew": self.knew})

    def _read(self) -> int | None:
        """Takes in what is there; the length in bytes up to a torn last line, or None without a file."""
        if not self.path.is_file():
            return None
        length, running, knew = 0, "", False
        with open(self.path, "rb") as lines:
            for raw in lines:
                if not raw.endswith(b"\n"):
                    break  # torn: what follows must not be glued to it
                line = _parsed(raw)
                length += len(raw)
                if line is None:
                    continue
                if "settings" in line:
                    running, knew = str(line["settings"]), bool(line.get("knew"))
                    self.current = set()
                elif "text" in line and "name" in line:
                    self._take(line, running)
                elif "written" in line:
                    self._settle()
                elif "finished" in line:
                    running, self.current = "", set()
        self.goes_on = running == self.settings and running != ""
        self.knew = knew if self.goes_on else bool(self.entries)
        return length

    def _take(self, line: dict[str, Any], settings: str) -> None:
        name, before = str(line["name"]), line.get("before")
        settled = bool(line.get("settled"))
        self.entries[name] = Entry(str(line["text"]), str(line.get("by", settings)), before, not settled)
        if not settled:
            self.current.add(name)
            self._pending.add(name)

    def _settle(self) -> None:
        for name in self._pending:
            self.entries[name] = replace(self.entries[name], pending=False)
        self._pending.clear()

    def add(self, name: str, text: str, before: str | None = None) -> None:
        """A caption that was just made."""
        self.entries[name] = Entry(text, self.settings, before, pending=True)
        self.current.add(name)
        self._pending.add(name)
        line = {"name": name, "text": text}
        self._append(line if before is None else line | {"before": before})

    def written(self) -> None:
        """All captions so far stand in the output."""
        self._settle()
        self._append({"written": len(self.current)})

    def finish(self) -> None:
        """Ends the run: the file is written anew with one line for each picture."""
        self.close()
        lines: list[dict[str, Any]] = []
        for name, entry in self.entries.items():
            line = {"name": name, "text": entry.text, "by": entry.settings, "settled": True}
            lines.append(line if entry.before is None else line | {"before": entry.before})
        lines.append({"finished": len(self.current)})
        head = {"v": VERSION, "settings": self.settings, "said": "", "knew": self.knew}
        write_atomic(self.path, "".join(_line(line) for line in [head, *lines]))

    def close(self) -> None:
        if not self._handle.closed:
            self._sync()
            self._handle.close()

    def _append(self, line: dict[str, Any]) -> None:
        self._handle.write(_line(line).encode())
        self._handle.flush()
        if time.monotonic() - self._synced > SYNC_SECONDS:
            self._sync()

    def _sync(self) -> None:
        os.fsync(self._handle.fileno())
        self._synced = time.monotonic()


def _line(line: dict[str, Any]) -> str:
    return json.dumps(line, ensure_ascii=False) + "\n"


def _parsed(raw: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(raw)
    except ValueError:
        return None
    return line if isinstance(line, dict) else None
