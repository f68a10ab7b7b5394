"""``metadata.csv`` and ``metadata.jsonl`` as output: whole at every moment, with what else is there."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from lora_scripts.core.files import write_atomic
from lora_scripts.core.problems import Problem, errors, raise_errors
from lora_scripts.data.folder import Found, PictureFolder
from lora_scripts.data.rows import CAPTION_COLUMNS, KNOWN, NamedCaption, columns_of, is_header, read_rows
from lora_scripts.data.table import Row, delimiter_of, parse_rows
from lora_scripts.data.text_files import read_text

COLUMNS = ("file_name", "text")
BOM = "\ufeff"
SECONDS = 5.0
"""Between two writes of the file while captions are made, at least."""
SHARE = 50
"""As many times longer than a write takes are the pauses between writes: 2 % of the time at most."""
_QUOTED = frozenset('",;\t\n\r')


@dataclass
class _Line:
    """A row of the file: cells or a JSON object. ``name``: the picture's in its folder; None where the row is
    none's, then it is kept as it stands, and ``caption`` is the name in it."""

    name: str | None
    caption: str
    cells: Any


@dataclass
class TableFile:
    """The captions of one file by picture, in the file's order, new ones behind in the folder's order."""

    path: Path
    folder: PictureFolder
    kind: Literal["csv", "jsonl"]
    header: bool = True
    excel: bool = False
    _lines: list[_Line] = field(default_factory=list)
    _place: dict[str, _Line] = field(default_factory=dict)
    _columns: tuple[str, ...] = COLUMNS
    _at: tuple[int, int] = (0, 1)
    _delimiter: str = ","
    _stamp: tuple[int, int, int] | None = None
    _written: dict[str, str] = field(default_factory=dict)
    _last: float = 0.0
    _took: float = 0.0

    @property
    def beside(self) -> Path:
        """Where what belongs to this output lies, and under which name."""
        return self.path.with_name(f".{self.path.name}")

    @property
    def strangers(self) -> list[str]:
        """Names in rows that are no picture of the folder."""
        return [line.caption for line in self._lines if line.name is None]

    def read(self) -> tuple[dict[str, str], list[Problem]]:
        """The captions that stand in the file, and warnings. Raises ``ProblemsError`` for rows that cannot be
        read: nothing is written over them."""
        if not self.path.is_file():
            return {}, []
        if self.path.stat().st_size == 0:
            self._stamp = self._stamp_now()
            return {}, []
        rows, problems = read_rows(self.path)
        raise_errors([problem for problem in problems if problem.code != "LS2009"])
        problems = [problem for problem in problems if problem.severity != "error"]
        text, _ = read_text(self.path)
        raw = self.path.read_bytes()[:3]
        self.excel = (
            self.excel
            or bool(problems)
            or raw[:3] == b"\xef\xbb\xbf"
            or raw[:2] in (b"\xff\xfe", b"\xfe\xff")
        )
        self._stamp = self._stamp_now()
        lines = self._lines_of(rows, text or "")
        self._lines, self._place = [], {}
        for line in lines:
            if line.name in self._place:
                line = _Line(None, line.name or "", line.cells)
            self._lines.append(line)
            if line.name is not None:
                self._place[line.name] = line
        self._written = {name: line.caption for name, line in self._place.items()}
        return dict(self._written), problems

    def _lines_of(self, rows: list[NamedCaption], text: str) -> list[_Line]:
        cells = self._csv_cells(text) if self.kind == "csv" else self._objects(text)
        names = {path: name for name, path in self.folder.pictures.items()}
        found = []
        for row in rows:
            picture = self.folder.find(row.name, self.path.parent)
            name = names.get(picture.path) if isinstance(picture, Found) else None
            found.append(_Line(name, row.caption if name is not None else row.name, cells[row.line]))
        return found

    def _csv_cells(self, text: str) -> dict[int, list[str]]:
        text = text.removeprefix(BOM)
        self._delimiter = delimiter_of(text, KNOWN)
        rows = [row for row in parse_rows(text, self._delimiter) if isinstance(row, Row)]
        if rows and is_header(rows[0]):
            columns = columns_of(rows[0], self.path)
            assert not isinstance(columns, Problem)  # read_rows has said so
            self._columns, self._at = rows[0].cells, columns
            rows = rows[1:]
        elif rows:
            self.header = False
        return {row.line: list(row.cells) for row in rows}

    def _objects(self, text: str) -> dict[int, dict[str, Any]]:
        lines = enumerate(text.replace("\r\n", "\n").split("\n"), 1)
        return {number: json.loads(line) for number, line in lines if line.strip()}

    def put(self, name: str, caption: str) -> None:
        line = self._place.get(name)
        if line is None:
            line = _Line(name, caption, self._new_cells(name))
            self._place[name] = line
        line.caption = caption

    def _new_cells(self, name: str) -> Any:
        if self.kind == "jsonl":
            return {COLUMNS[0]: name, COLUMNS[1]: ""}
        cells = [""] * len(self._columns)
        cells[self._at[0]] = name
        return cells

    def flush(self, *, last: bool = False) -> bool:
        """Replaces the file by all captions so far, if it is time to, and says whether it did.

        What was edited in the file meanwhile is taken over. Raises ``ProblemsError`` (with ``last`` only)
        if it can no longer be read, OSError if it cannot be written.
        """
        pause = max(SECONDS, SHARE * self._took)
        if not last and time.monotonic() - self._last < pause:
            return False
        start = time.monotonic()
        if self._stamp_now() != self._stamp and not self._take_edits(last):
            return False
        try:
            write_atomic(self.path, self._text())
        except PermissionError:  # open in another program, on Windows
            if last:
                raise
            return False
        self._stamp = self._stamp_now()
        self._written = {name: line.caption for name, line in self._place.items()}
        self._last = time.monotonic()
        self._took = self._last - start
        return True

    def _take_edits(self, last: bool) -> bool:
        """Whether the file, which somebody else has changed, could be read; rows changed there stay so."""
        known, mine = self._written, {name: line.caption for name, line in self._place.items()}
        if self.path.is_file() and self.path.stat().st_size:
            _, problems = read_rows(self.path)
            if errors(problems) and not last:
                return False
        theirs, _ = self.read()
        for name, caption in mine.items():
            edited = name in theirs and theirs[name] != known.get(name)
            deleted = name in known and name not in theirs
            if not edited and not deleted:
                self.put(name, caption)
        return True

    def _stamp_now(self) -> tuple[int, int, int] | None:
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _text(self) -> str:
        known = {id(line) for line in self._lines}
        order = {name: place for place, name in enumerate(self.folder.pictures)}
        new = sorted(
            (line for line in self._place.values() if id(line) not in known),
            key=lambda line: order[str(line.name)],
        )
        every = self._lines + new
        write = self._csv_row if self.kind == "csv" else self._json_row
        head = ""
        if self.kind == "csv" and self.header:
            head = self._delimiter.join(_cell(cell, self._delimiter) for cell in self._columns) + "\n"
        mark = BOM if self.excel and self.kind == "csv" else ""
        return mark + head + "".join(write(line) for line in every)

    def _csv_row(self, line: _Line) -> str:
        cells = [_cell(cell, self._delimiter) for cell in line.cells]
        if line.name is not None:
            at = self._at[1]
            cells[at] = '"' + line.caption.replace('"', '""') + '"'
        return self._delimiter.join(cells) + "\n"

    def _json_row(self, line: _Line) -> str:
        value = dict(line.cells)
        if line.name is not None:
            key = next((key for key in CAPTION_COLUMNS if isinstance(value.get(key), str)), COLUMNS[1])
            value[key] = line.caption
        return json.dumps(value, ensure_ascii=False) + "\n"


def _cell(text: str, delimiter: str) -> str:
    if _QUOTED & set(text) or text != text.strip() or delimiter in text:
        return '"' + text.replace('"', '""') + '"'
    return text
