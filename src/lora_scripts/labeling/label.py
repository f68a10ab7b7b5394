"""A folder of pictures in, a caption for each out: the one loop that every captioner runs in."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from lora_scripts.core.catalogue import say
from lora_scripts.core.problems import Location, Problem, ProblemsError
from lora_scripts.data.captions import clean
from lora_scripts.data.folder import PictureFolder
from lora_scripts.data.kohya_folders import counted, is_counted
from lora_scripts.data.manifest import METADATA_NAMES
from lora_scripts.data.text_files import listing, printable

from ._captioner import Asked, Captioner, Words
from .ahead import by_shape
from .batches import described
from .caption_files import CaptionFiles
from .choose import Choice, load
from .existing import Decisions, Mode, decide, elsewhere
from .phrasing import Join, Phrasing
from .record import SUFFIX, Record
from .table_file import TableFile

Format = Literal["csv", "jsonl", "txt"]
Output = TableFile | CaptionFiles
SHOWN = 5


@dataclass(frozen=True)
class Job:
    """What a run shall do. ``output``: None for ``metadata.csv`` (or ``.jsonl``) among the pictures."""

    pictures: Path
    chosen: tuple[Choice, ...]
    output: Path | None = None
    format: Format = "csv"
    asked: Asked = field(default_factory=Asked)
    phrasing: Phrasing = field(default_factory=Phrasing)
    existing: Mode = "keep"
    edited: bool = False
    header: bool = True
    excel: bool = False


@dataclass
class Report:
    """What came of it. ``failed``: a problem for each picture without a caption; ``problems``: all else."""

    output: Path
    total: int
    made: int = 0
    kept: int = 0
    failed: list[Problem] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


@dataclass(frozen=True)
class Watch:
    """What is told while it goes on: ``progress(phase, done, total)``, and sentences."""

    progress: Callable[[str, int, int], None] = lambda phase, done, total: None
    tell: Callable[[str], None] = lambda sentence: None


def settings_of(job: Job) -> tuple[str, str]:
    """A hash of what makes captions what they are, and the captioners in words."""
    asked = {
        key: value for key, value in asdict(job.asked).items() if key not in ("batch_size", "device", "dtype")
    }
    rules = {key: value for key, value in vars(job.phrasing).items() if key not in ("cutter", "warn")}
    said = " + ".join(choice.shown for choice in job.chosen)
    what = json.dumps([said, asked, rules, job.existing, job.edited], sort_keys=True, default=str)
    return hashlib.sha256(what.encode()).hexdigest()[:16], said


def label(job: Job, watch: Watch = Watch()) -> Report:
    """Captions every picture that needs it.

    Raises ``ProblemsError`` where nothing can be done, or not go on: no folder, rows that cannot be read, a
    captioner that cannot be had, a full disk. What was captioned until then is kept.
    """
    folder = _folder(job)
    output = _output(job, folder)
    here, problems = output.read()
    other, wrong = elsewhere(folder, output.path)
    if wrong:
        raise ProblemsError(wrong)
    if output.strangers and not here:
        names = listing(output.strangers)
        params = {"file": output.path.name, "folder": str(folder.root), "names": names}
        raise ProblemsError(Problem("LS2460", params, Location(str(output.path))))
    problems += _before(folder, output)
    settings, said = settings_of(job)
    place = output.beside.with_name(output.beside.name + SUFFIX)
    lock = f"{place}.lock"
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock, timeout=0):
            record = Record(place, settings, said)
            try:
                decisions = decide(folder, here, other, record, job.existing, job.edited)
                return _Run(job, watch, folder, output, record).carry_out(decisions, problems)
            finally:
                record.close()
                with suppress(OSError):  # Windows keeps it while it is held
                    os.unlink(lock)
    except Timeout:
        raise ProblemsError(Problem("LS3101", {"file": str(output.path)})) from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        where = Location(str(output.path))
        raise ProblemsError(Problem("LS3102", {"file": str(output.path), "reason": reason}, where)) from error


def _folder(job: Job) -> PictureFolder:
    place = Location(str(job.pictures))
    if not job.pictures.is_dir():
        raise ProblemsError(Problem("LS2020", {"folder": str(job.pictures)}, place))
    folder = PictureFolder.scan(job.pictures)
    if not folder.pictures:
        raise ProblemsError(Problem("LS2021", {"folder": str(job.pictures)}, place))
    return folder


def _output(job: Job, folder: PictureFolder) -> Output:
    if job.format == "txt":
        return CaptionFiles(folder)
    path = job.output or job.pictures / f"metadata.{job.format}"
    return TableFile(path.resolve() if path.is_symlink() else path, folder, job.format, job.header, job.excel)


def _before(folder: PictureFolder, output: Output) -> list[Problem]:
    """What is worth knowing before anything is captioned."""
    found = []
    place = Location(str(output.path))
    if strangers := output.strangers:
        params = {"count": len(strangers), "names": listing(strangers), "file": output.path.name}
        found.append(Problem("LS3120", params, place, "warning"))
    among = output.path.parent.resolve() == folder.root.resolve() and output.path.name in METADATA_NAMES
    if among and is_counted(folder.pictures):
        found.append(Problem("LS3121", {"file": output.path.name}, place, "warning"))
    files = [name for name in METADATA_NAMES if (folder.root / name).is_file()]
    if isinstance(output, CaptionFiles) and files:
        found.append(Problem("LS3122", {"file": files[0]}, place, "warning"))
    if folder.unreadable:
        params = {"count": len(folder.unreadable), "names": listing(folder.unreadable)}
        found.append(Problem("LS2407", params, Location(str(folder.root)), "warning"))
    return found


def folder_words(name: str, root: Path) -> str:
    """What the folder of a picture says: ``sks dog`` of ``10_sks dog/1.png``, else its plain name."""
    parts = name.split("/")[:-1]
    says = counted(parts[0]) if parts else None
    own = says.words if says else (parts[-1] if parts else root.resolve().name)
    return clean(own.replace("_", " "))


@dataclass
class _Few:
    """How many pictures something was the case with, and the first of them."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, shown: str) -> None:
        self.count += 1
        if len(self.first) < SHOWN:
            self.first.append(shown)

    def problem(self, code: str, file: Path, **more: object) -> Problem:
        names = ", ".join(self.first) + (", …" if self.count > len(self.first) else "")
        return Problem(code, {"count": self.count, "names": names, **more}, Location(str(file)), "warning")


@dataclass
class _Run:
    job: Job
    watch: Watch
    folder: PictureFolder
    output: Output
    record: Record
    empty: _Few = field(default_factory=_Few)
    long: _Few = field(default_factory=_Few)
    short: _Few = field(default_factory=_Few)

    def carry_out(self, decisions: Decisions, problems: list[Problem]) -> Report:
        report = Report(self.output.path, len(self.folder.pictures), kept=decisions.kept, problems=problems)
        for name, caption in decisions.put.items():
            if not (problem := self._unwritable(name)):
                self.output.put(name, caption)
            elif name not in decisions.make:
                report.failed.append(problem)
        try:
            if decisions.make:
                self._caption(decisions.make, report)
        finally:
            if (decisions.put or report.made) and self.output.flush(last=True):
                self.record.written()
        self.record.finish()
        report.problems += self._after(decisions)
        return report

    def _caption(self, make: dict[str, str], report: Report) -> None:
        wanted = []
        for name in make:
            if problem := self._unwritable(name):
                report.failed.append(problem)
            else:
                wanted.append((name, self.folder.pictures[name]))
        pictures = by_shape(wanted, lambda done, total: self.watch.progress("shapes", done, total))
        size = self.job.asked.batch_size
        for batch in described(self._load, pictures, size, self._smaller):
            for one, found in batch:
                wrong = found if isinstance(found, Problem) else found.problem
                if wrong is not None:
                    report.failed.append(wrong)
                elif isinstance(found, Words):
                    self._take(one.name, found, make[one.name])
                    report.made += 1
            if self.output.flush():
                self.record.written()
            self.watch.progress("label", report.made + len(report.failed), len(make))

    def _load(self) -> Captioner:
        shown = " + ".join(choice.shown for choice in self.job.chosen)
        self.watch.tell(say("label.loading", captioners=shown))
        try:
            return load(self.job.chosen, self.job.asked)
        except OSError as error:  # not the output's: those are said as such
            raise RuntimeError(f"{type(error).__name__}: {error}") from error

    def _smaller(self, size: int) -> None:
        self.watch.tell(say("label.smaller", size=size))

    def _take(self, name: str, words: Words, before: str) -> None:
        """A caption goes to the record first, and so is on disk before anything else happens."""
        mode = self.job.existing
        join: Join = "append" if mode == "append" else "prepend" if mode == "prepend" else "keep"
        phrase = self.job.phrasing.phrase(words, folder_words(name, self.folder.root), before, join)
        self.record.add(name, phrase.text, before or None)
        self.output.put(name, phrase.text)
        silent = not words.text.strip() and not words.tags
        if silent and not any(choice.template for choice in self.job.chosen):
            self.empty.add(printable(name))
        if phrase.cut:
            self.long.add(f"{printable(name)} (…{printable(phrase.cut, 40)})")
        least = self.job.phrasing.least
        if least is not None and phrase.tokens < least:
            self.short.add(f"{printable(name)} ({phrase.tokens})")

    def _unwritable(self, name: str) -> Problem | None:
        """A name that no text file can hold: bytes that are no Unicode, or an old Mac's line end."""
        try:
            name.encode()
        except UnicodeEncodeError:
            pass
        else:
            if "\r" not in name or self.job.format != "csv":
                return None
        shown = printable(name.encode("utf-8", "backslashreplace").decode())
        return Problem("LS2461", {"name": shown}, Location(str(self.folder.root)))

    def _after(self, decisions: Decisions) -> list[Problem]:
        found = []
        rules = self.job.phrasing
        if self.empty.count:
            found.append(self.empty.problem("LS3110", self.output.path))
        if self.long.count and rules.most is None:
            found.append(self.long.problem("LS3111", self.output.path, limit=rules.warn))
        elif self.long.count:
            found.append(self.long.problem("LS3112", self.output.path, limit=rules.most))
        if self.short.count:
            found.append(self.short.problem("LS3113", self.output.path, limit=rules.least))
        if decisions.by_hand:
            params = {"count": len(decisions.by_hand), "names": listing(decisions.by_hand)}
            found.append(Problem("LS3114", params, Location(str(self.output.path)), "note"))
        return found
