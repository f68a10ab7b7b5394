"""Rows of a text data set, tokenised once into a table that is kept under the hash of all it depends on."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import lora_scripts
from lora_scripts.config.schema import RunConfig
from lora_scripts.core.files import TEMPORARY, write_atomic
from lora_scripts.core.paths import cache_folder
from lora_scripts.core.problems import Location, Problem, ProblemsError, errors
from lora_scripts.data.chat import TextExample
from lora_scripts.data.row_faults import SHOWN
from lora_scripts.data.text_files import printable
from lora_scripts.data.text_sources import Texts, TextSource, open_texts
from lora_scripts.data.token_table import DamagedTableError, TokenRow, TokenTable, write_table
from lora_scripts.families._encode import DOCUMENT, Encoder

from .cache_room import not_written

HELD_OUT = 8
"""Bit of ``TokenRow.flags``: the row comes from the user's own validation data."""
CODE = (
    "families/_chat*.py", "families/_alignment.py", "families/_encode.py", "families/_special_tokens.py",
    "data/chat.py", "data/text_*.py", "data/*rows.py", "data/row_faults.py", "data/token_table.py",
    "preflight/checks/text_table.py",
)  # fmt: skip
"""Files whose change makes a kept table worthless."""
EVERY_ROWS = 500
ABANDONED = 2 * 86400
"""Seconds after which nobody goes on writing a half-written table."""

Progress = Callable[[str, int, int], None]
Verify = Callable[[Any, Iterable[str]], Problem | None]


@dataclass(frozen=True)
class Built:
    """A table with what stands beside it. ``prompts`` (n,) uint64: hash of what comes before a row's first
    answer, 0 where nothing does; ``weights`` (n,) float32: how often a row counts per epoch; ``tokens``
    (n,) int32: all tokens of a row, of a pair those of both answers; ``files``: path -> SHA-256."""

    table: TokenTable
    prompts: np.ndarray
    weights: np.ndarray
    tokens: np.ndarray
    problems: list[Problem]
    files: dict[str, str]

    @property
    def about(self) -> dict[str, Any]:
        """What was counted while the table was written."""
        found: dict[str, Any] = self.table.meta["about"]
        return found


def training_sources(config: RunConfig) -> list[TextSource]:
    if config.datasets:
        return [
            TextSource(each.path, each.weight, each.columns or config.columns) for each in config.datasets
        ]
    return [TextSource(config.metadata_path or config.train_data_dir, columns=config.columns)]


def build(
    config: RunConfig,
    tokenizer: Any,
    max_length: int,
    progress: Progress | None = None,
    verify: Verify | None = None,
) -> Built:
    """Reads and encodes all rows, or finds that this was done before. ``verify`` is shown the texts of every
    row until it finds something to say about how the tokenizer reads them.

    Raises ProblemsError with everything that is wrong with rows and chat template.
    """
    encoder = Encoder(
        tokenizer,
        max_length=max_length,
        loss_on=config.loss_on,
        system=config.system,
        on_long=config.on_long_row,
        thinking=config.thinking,
        chat_template=config.chat_template,
    )
    sources = [open_texts(training_sources(config), on_bad_row=config.on_bad_row)]
    if config.validation.data_dir is not None:
        held_out = [TextSource(config.validation.data_dir, columns=config.columns)]
        sources.append(open_texts(held_out, on_bad_row=config.on_bad_row))
    folder = cache_folder(config.cache_dir) / "tokens"
    path = folder / f"{_key(config, encoder, sources)}.arrow"
    if (kept := _kept(path, sources)) is not None:
        return kept
    writing = _Writing(config, encoder, sources, progress, verify)
    try:
        _clear_abandoned(folder)
        write_table(path, writing.rows(), writing.meta)
        write_atomic(path.with_suffix(".npz"), writing.save_arrays)
    except _Wrong:
        raise ProblemsError(writing.problems) from None
    except OSError as error:
        place = Path(error.filename) if error.filename is not None else folder
        if folder not in (place, *place.parents) and place not in folder.parents:  # a source, not the cache
            raise
        raise ProblemsError(not_written(folder, error, 0)) from error
    built = _kept(path, sources)
    assert built is not None
    return built


def _clear_abandoned(folder: Path) -> None:
    """Removes what killed processes left. The folder is shared, also between computers, so that age alone
    tells it from what another run is writing."""
    for path in folder.glob(f"{TEMPORARY}*"):
        with suppress(OSError):  # finished and renamed in this moment, or another user's
            if time.time() - path.stat().st_mtime > ABANDONED:
                path.unlink()


def _key(config: RunConfig, encoder: Encoder, sources: Sequence[Texts]) -> str:
    """Hash of the files' content, the tokenizer, the template, all options and the code that reads them."""
    told = {
        "files": [[(name, sha) for name, sha in texts.files.items()] for texts in sources],
        "sources": [[(source.weight, dict(source.columns)) for source in texts.sources] for texts in sources],
        "tokenizer": _tokenizer_hash(encoder.tokenizer),
        "template": encoder.chat.source,
        "today": time.strftime("%Y-%m-%d") if encoder.chat.dated else "",
        "options": [
            encoder.max_length,
            config.loss_on,
            config.system,
            config.on_long_row,
            config.thinking,
            config.on_bad_row,
            config.objective == "sft",
        ],
        "code": _code_hash(),
        "libraries": [importlib.metadata.version(name) for name in ("tokenizers", "transformers")],
    }
    text = json.dumps(told, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _tokenizer_hash(tokenizer: Any) -> str:
    digest = hashlib.sha256(type(tokenizer).__name__.encode())
    if getattr(tokenizer, "is_fast", False):
        digest.update(tokenizer.backend_tokenizer.to_str().encode())
    else:
        digest.update(json.dumps(sorted(tokenizer.get_vocab().items())).encode())
    told = [tokenizer.special_tokens_map, getattr(tokenizer, "generation", None)]
    digest.update(json.dumps(told, sort_keys=True, default=str).encode())
    return digest.hexdigest()


@cache
def _code_hash() -> str:
    root = Path(lora_scripts.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(path for pattern in CODE for path in root.glob(pattern)):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _kept(path: Path, sources: Sequence[Texts]) -> Built | None:
    try:
        table = TokenTable.open(path)
        with np.load(path.with_suffix(".npz"), allow_pickle=False) as arrays:
            prompts, weights, tokens = arrays["prompts"], arrays["weights"], arrays["tokens"]
    except (FileNotFoundError, DamagedTableError, ValueError, KeyError, OSError):
        return None
    if len(prompts) != len(table):
        return None
    problems = [_problem(told) for told in table.meta["problems"]]
    files = {name: sha for texts in sources for name, sha in texts.files.items()}
    return Built(table, prompts, weights, tokens, problems, files)


class _Wrong(Exception):  # noqa: N818 - leaves the writer of the table, nothing else
    """There are errors: no table is kept."""


@dataclass
class _Writing:
    """From sources to rows, with all that is found on the way."""

    config: RunConfig
    encoder: Encoder
    sources: Sequence[Texts]
    progress: Progress | None
    verify: Verify | None
    meta: dict[str, Any] = field(default_factory=dict)
    prompts: array[int] = field(default_factory=lambda: array("Q"))
    weights: array[float] = field(default_factory=lambda: array("f"))
    tokens: array[int] = field(default_factory=lambda: array("i"))
    wrong: list[Problem] = field(default_factory=list)
    hidden: int = 0
    kinds: dict[str, tuple[int, Problem]] = field(default_factory=dict)
    highest: int = -1
    read: int = 0

    @property
    def skips(self) -> bool:
        return self.config.on_bad_row == "skip"

    @property
    def problems(self) -> list[Problem]:
        found = [problem for texts in self.sources for problem in texts.problems] + self.wrong
        for count, first in self.kinds.values():
            place = first.where.file if first.where else ""
            told = {"count": count, "file": printable(place), "first": first}
            found.append(Problem("LS2190", told, first.where, "warning"))
        if self.hidden:
            found.append(Problem("LS2191", {"count": self.hidden, "shown": SHOWN}))
        return found

    def add(self, problem: Problem) -> None:
        if problem.code == "LS2200":
            if not any(other.code == "LS2200" for other in self.wrong):
                self.wrong.append(problem)
        elif self.skips:
            count, first = self.kinds.get(problem.code, (0, problem))
            self.kinds[problem.code] = (count + 1, first)
        elif len(self.wrong) < SHOWN:
            self.wrong.append(problem)
        else:
            self.hidden += 1

    def rows(self) -> Iterator[TokenRow]:
        for number, texts in enumerate(self.sources):
            for example, row in self.encoder.encode_all(self._examples(texts), self.add):
                self.prompts.append(_prompt_hash(row))
                self.weights.append(example.weight)
                other = row.ids[:0] if row.rejected_ids is None else row.rejected_ids
                self.tokens.append(len(row.ids) + len(other))
                self.highest = max(self.highest, int(row.ids.max(initial=-1)), int(other.max(initial=-1)))
                yield replace(row, flags=row.flags | HELD_OUT) if number else row
        problems = self.problems
        if errors(problems):
            raise _Wrong
        tallies = self.encoder.tallies.items()
        self.meta |= {
            "files": list(self.encoder.files),
            "problems": [_told(problem) for problem in problems],
            "about": {
                "tallies": {kind: {"count": each.count, "places": each.places} for kind, each in tallies},
                "ends": [[number, count] for number, count in self.encoder.ends.most_common()],
                "forms": {name: form for texts in self.sources for name, form in texts.forms.items()},
                "counts": {name: count for texts in self.sources for name, count in texts.counts.items()},
                "left_out": sum(sum(texts.left_out.values()) for texts in self.sources)
                + sum(count for count, _ in self.kinds.values()),
                "highest": self.highest,
                "spelt": sorted(self.encoder.spelt),
            },
        }

    def _examples(self, texts: Texts) -> Iterator[TextExample]:
        """Once a row was found bad, the rest is read for what else is wrong, and not encoded."""
        total = _lines_of(texts.files) if self.progress else 0
        for example in texts:
            self.read += 1
            if self.progress and self.read % EVERY_ROWS == 0:
                self.progress("tokens", self.read, max(self.read, total))
            if not self.skips and (self.hidden or texts.left_out):
                continue
            if any(problem.code == "LS2200" for problem in self.wrong):
                continue
            if self.config.objective == "sft" and example.is_pair:
                example = without_rejected(example)
            if self.verify is not None and (found := self.verify(self.encoder.tokenizer, texts_of(example))):
                self.wrong.append(found)
                self.verify = None
            yield example
        if self.progress and self.read:
            self.progress("tokens", self.read, self.read)

    def save_arrays(self, handle: Any) -> None:
        np.savez(
            handle,
            prompts=np.array(self.prompts, np.uint64),
            weights=np.array(self.weights, np.float32),
            tokens=np.array(self.tokens, np.int32),
        )


def texts_of(example: TextExample) -> list[str]:
    """All that is said in an example."""
    turns = (*example.turns, *example.chosen, *example.rejected)
    return [turn.content for turn in turns] if example.text is None else [example.text]


def without_rejected(example: TextExample) -> TextExample:
    """A pair as a conversation that ends with the chosen answer; only that is learnt."""
    prompt = tuple(replace(turn, train=False) for turn in example.turns)
    return replace(example, turns=(*prompt, *example.chosen), chosen=(), rejected=())


def _prompt_hash(row: TokenRow) -> int:
    first = int(np.argmax(row.targets)) if row.targets.any() else 0
    if row.flags & DOCUMENT or first < 2:
        return 0
    digest = hashlib.blake2b(np.ascontiguousarray(row.ids[:first]).data, digest_size=8)
    return int.from_bytes(digest.digest(), "big") or 1


def _lines_of(files: Any) -> int:
    """About how many rows there are, for a progress bar: lines, where a row is one."""
    total = 0
    for name in files:
        path = Path(name)
        if path.suffix.lower() in (".jsonl", ".csv", ".tsv") and path.is_file():
            with open(path, "rb") as handle:
                while block := handle.read(1 << 22):
                    total += block.count(b"\n")
    return total


def _told(problem: Problem) -> dict[str, Any]:
    where = problem.where
    place = [where.file, where.line, where.column] if where else None
    params = {
        name: _told(value)
        if isinstance(value, Problem)
        else value
        if isinstance(value, int | float)
        else str(value)
        for name, value in problem.params.items()
    }
    return {"code": problem.code, "params": params, "where": place, "severity": problem.severity}


def _problem(told: dict[str, Any]) -> Problem:
    where = Location(*told["where"]) if told["where"] else None
    params = {
        name: _problem(value) if isinstance(value, dict) else value for name, value in told["params"].items()
    }
    return Problem(told["code"], params, where, told["severity"])
