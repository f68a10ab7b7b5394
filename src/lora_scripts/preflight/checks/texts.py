"""From a config to rows of tokens ready to be learnt and a plan in numbers, or everything that is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np

from lora_scripts.config.schema import DEFAULTS, RunConfig
from lora_scripts.core.problems import Location, Problem, ProblemsError, Severity
from lora_scripts.data.mixing import repeats
from lora_scripts.data.plan import Plan
from lora_scripts.data.text_files import listing
from lora_scripts.data.text_fingerprint import fingerprint
from lora_scripts.data.token_table import TokenTable
from lora_scripts.families._base import TextDescription, TextFamily
from lora_scripts.families._chat import Chat
from lora_scripts.families._chat_templates import CONTROL
from lora_scripts.families._encode import CUT, DOCUMENT, ENDS, NAMED
from lora_scripts.families._source import Source
from lora_scripts.families._special_tokens import is_token

from .text_split import Repeats, hold_out, repeats_of
from .text_table import HELD_OUT, Built, Progress, build, training_sources

AUTO_LENGTH = 2048
"""Tokens of a row at most where nothing is said: longer ones cost memory that most cards do not have."""
FEW = 10
PER_OCTAVE = 4
"""Length groups of padded rows: neighbours differ by a factor of at most 2 ** (1 / PER_OCTAVE)."""


@dataclass(frozen=True)
class TextReport:
    """What a run learns from. ``train`` and ``validation``: (n,) row numbers of ``table``; a row whose weight
    says so stands in ``train`` several times. ``plan`` counts positions in ``train``; None without any.
    ``objective``: ``sft``, ``dpo`` or ``orpo``. ``max_length`` and ``context``: tokens. ``chat_template``:
    what conversations are rendered with, None where there is nothing. ``chat`` has the tokenizer.
    ``sharing``: a beginning that rows share is computed once; not with dropout, one draw of which would stand
    for all of them."""

    built: Built
    chat: Chat
    train: np.ndarray
    validation: np.ndarray
    plan: Plan | None
    objective: str
    max_length: int
    context: int
    packing: bool
    sharing: bool
    source: str
    validation_source: str | None = None
    epochs: int | None = None
    max_steps: int | None = None
    system: str | None = None

    @property
    def table(self) -> TokenTable:
        return self.built.table

    @property
    def files(self) -> Mapping[str, str]:
        return self.built.files

    @property
    def chat_template(self) -> Any:
        return self.chat.template

    @property
    def total_epochs(self) -> int:
        default: int = DEFAULTS["text-generation"]["epochs"]
        return self.epochs or default

    @property
    def total_steps(self) -> int:
        """Windows in the whole run: ``max_steps``, else epochs times windows per epoch."""
        if self.plan is None:
            return 0
        return self.max_steps or self.total_epochs * self.plan.windows_per_epoch

    def fingerprint(self) -> dict[str, Any]:
        return fingerprint(self.table, self.train, self.validation, self.files)

    def lines(self) -> list[str]:
        """The plan in numbers and the proofs, in the user's language."""
        from .text_lines import lines

        return lines(self)


def check_texts(
    config: RunConfig,
    family: TextFamily,
    description: TextDescription,
    source: Source,
    progress: Progress | None = None,
) -> tuple[TextReport, list[Problem]]:
    """Reads the rows, tokenises them (or finds that done), splits and plans.

    ``progress`` gets ("tokens", done, total) rows. Raises ProblemsError where rows or the chat template are
    wrong; what else is wrong is in the list, and the report is whole where none of it is an error.
    """
    problems: list[Problem] = []
    length = min(description.context, AUTO_LENGTH)
    if isinstance(config.max_length, int):
        length = config.max_length
        if length > description.context:
            told = {"length": length, "context": description.context}
            problems.append(Problem("LS1030", told))
            length = description.context
    tokenizer = family.tokenizer(source)
    try:
        built = build(config, tokenizer, length, progress, getattr(family, "verify", None))
    except ProblemsError as error:
        raise ProblemsError([*problems, *error.problems]) from error
    table = built.table
    problems += built.problems
    own = (table.flags & HELD_OUT) != 0
    if config.validation.data_dir is not None:
        train, held = np.flatnonzero(~own), np.flatnonzero(own)
    else:
        train, held = hold_out(table, built.prompts, config.validation.split)
    shared = repeats_of(table, built.prompts, train, held)
    train = train[repeats(built.weights[train], table.keys[train])]
    chat = Chat(tokenizer, config.chat_template, config.thinking)
    report = TextReport(
        built=built,
        chat=chat,
        train=train,
        validation=held,
        plan=_plan(config, table, train),
        objective=_objective(config, table),
        max_length=length,
        context=description.context,
        packing=config.packing,
        sharing=config.packing and not config.lora_dropout,
        source=listing([each.path for each in training_sources(config)]),
        validation_source=config.validation.data_dir,
        epochs=config.epochs,
        max_steps=config.max_steps,
        system=config.system,
    )
    problems += _learnt(report) + _objective_fits(config, table) + _in_vocabulary(report, description)
    problems += _long(built) + _spelt(built) + _repeated(table, shared, report.source)
    problems += _template(config, chat)
    return report, problems + _left_aside(config)


def _plan(config: RunConfig, table: TokenTable, train: np.ndarray) -> Plan | None:
    if not len(train):
        return None
    groups = np.zeros(len(train), np.int64) if config.packing else length_groups(table.lengths[train])
    return Plan(groups, config.batch_size, config.gradient_accumulation_steps, config.seed)


def length_groups(lengths: np.ndarray) -> np.ndarray:
    """(n,) int64: rows of about one length, so that little of a padded batch is padding."""
    return np.floor(np.log2(np.maximum(lengths, 1)) * PER_OCTAVE).astype(np.int64)


def _objective(config: RunConfig, table: TokenTable) -> str:
    if config.objective != "auto":
        return config.objective
    return "dpo" if table.pairs else "sft"


def _objective_fits(config: RunConfig, table: TokenTable) -> list[Problem]:
    pairs = table.pairs
    if config.objective in ("dpo", "orpo") and not pairs and len(table):
        return [Problem("LS2218", {"objective": config.objective})]
    if 0 < pairs < len(table):
        return [Problem("LS2219", {"pairs": pairs, "others": len(table) - pairs})]
    return []


def _learnt(report: TextReport) -> list[Problem]:
    """Something must be learnt, and so must be where an answer ends."""
    table, place = report.table, Location(report.source)
    if not report.plan or not int(table.loss_tokens[report.train].sum()):
        return [Problem("LS2208", {"rows": sum(report.built.about["counts"].values())}, place)]
    found = []
    flags = table.flags[report.train]
    answers = (flags & (DOCUMENT | CUT)) == 0
    if answers.any() and not (flags[answers] & ENDS).any():
        found.append(Problem("LS2217", {"rows": int(answers.sum())}, place))
    if len(report.train) < FEW:
        found.append(Problem("LS2222", {"count": len(report.train)}, place, "warning"))
    return found


def _in_vocabulary(report: TextReport, description: TextDescription) -> list[Problem]:
    highest = int(report.built.about["highest"])
    if highest < description.vocabulary:
        return []
    token = str(report.chat.tokenizer.convert_ids_to_tokens(highest))
    told = {"token": token, "number": highest, "vocabulary": description.vocabulary}
    return [Problem("LS2221", told)]


def named(places: list[str]) -> str:
    """The first of some places, each as file and line without the folders before it."""
    return listing([PurePath(place).name for place in places], NAMED)


def _long(built: Built) -> list[Problem]:
    """Rows that something happened to, by name."""
    found = []
    kinds: tuple[tuple[str, str, Severity], ...] = (
        ("truncated", "LS2210", "warning"),
        ("split", "LS2211", "note"),
        ("dropped", "LS2212", "warning"),
        ("unanswered", "LS2213", "warning"),
        ("unlearnt", "LS2225", "note"),
        ("tools_unused", "LS2224", "warning"),
    )
    for kind, code, severity in kinds:
        tally = built.about["tallies"][kind]
        if tally["count"]:
            told = {"count": tally["count"], "names": named(tally["places"])}
            found.append(Problem(code, told, severity=severity))
    return found


def _spelt(built: Built) -> list[Problem]:
    """Rows whose own words are read as control tokens."""
    tally = built.about["tallies"]["spelt"]
    if not tally["count"]:
        return []
    told = {"tokens": listing(built.about["spelt"], NAMED), "names": named(tally["places"])}
    return [Problem("LS2227", {"count": tally["count"], **told}, severity="warning")]


def _repeated(table: TokenTable, shared: Repeats, source: str) -> list[Problem]:
    found = []
    for code, rows in (("LS2214", shared.again), ("LS2215", shared.leaked), ("LS2216", shared.prompted)):
        if len(rows):
            places = [str(table.place(int(row))) for row in rows[: NAMED + 1]]
            told = {"count": len(rows), "names": named(places)}
            found.append(Problem(code, told, Location(source), "warning"))
    return found


def _left_aside(config: RunConfig) -> list[Problem]:
    """A file that is named, and not read because ``datasets`` lists what is."""
    file = config.metadata_path
    if file is None or not config.datasets or file in [each.path for each in config.datasets]:
        return []
    return [Problem("LS2226", {"file": file}, severity="warning")]


def _template(config: RunConfig, chat: Chat) -> list[Problem]:
    """A template of ours whose control tokens the base does not have."""
    name = config.chat_template or ""
    absent = [token for token in CONTROL.get(name, ()) if not is_token(chat.tokenizer, token)]
    told = {"name": name, "tokens": ", ".join(absent)}
    return [Problem("LS2223", told, severity="warning")] if absent else []
